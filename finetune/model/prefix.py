"""A prefix that starts as keys and values which the model itself computes.

Virtual token i stands at position i and a conversation behind the last of them: in training
(`SupervisedLoss`), in peft's own forward, and where answers are written. So one forward of as many real tokens
from position 0 gives keys that are rotated as they will be read, and the first step begins at the base's loss.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from finetune.errors import ConfigError

_EXACT = 1e-3
"""Of the length of keys and values: what a projected prefix may miss of them."""


@torch.no_grad()
def keys_and_values(base: PreTrainedModel, ids: Sequence[int], device: torch.device) -> Tensor:
    """What all layers keep of the tokens `ids`, as peft lays a prefix out: (P, layers * 2 * KV * D) float32.

    Raises ConfigError for a model whose layers keep anything else.
    """
    cache = DynamicCache()
    given = torch.tensor([list(ids)], device=device)
    base(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
    kept = [
        part for layer in cache.layers if type(layer) is DynamicLayer for part in (layer.keys, layer.values)
    ]
    if len(kept) != 2 * base.config.get_text_config().num_hidden_layers or None in kept:
        raise ConfigError("its layers keep something else than keys and values")
    return torch.stack([part[0].transpose(0, 1) for part in kept if part is not None], dim=1).flatten(1).float()


def projection_weights(
    embedding: Tensor, weight: Tensor, bias: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a projection's last layer that make it give `wanted` (P, N).

    embedding (P, E), weight (H, E), bias (H,): what stands before it, with a tanh behind. Raises ConfigError
    where H is too small for so many tokens.
    """
    features = torch.tanh(embedding.double() @ weight.double().T + bias.double())
    middle = wanted.double().mean(dim=0)
    last = torch.linalg.pinv(features) @ (wanted.double() - middle)
    missed = (features @ last + middle - wanted).norm() / wanted.norm()
    if not missed <= _EXACT:
        tokens, width = features.shape
        raise ConfigError(
            f"a projection {width} wide cannot give {tokens} tokens the model's own keys and values; "
            f"set encoder_hidden_size: {tokens} or more, or prefix_projection: false"
        )
    return last.T.float().contiguous(), middle.float()
