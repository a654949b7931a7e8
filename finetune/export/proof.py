"""Whether a merged model says what base and adapter say together: both are asked, and the answers measured.

The question is what merging did to the weights, so both are computed in float32, whatever they are stored in:
in bfloat16 the arithmetic alone moves logits by more than the merge does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from finetune.chat.sight import Sight
from finetune.config.modules import is_in
from finetune.data.encode import Prompt
from finetune.errors import ModelError
from finetune.model.vision import Vision, require_vision
from finetune.printing import Lines

POSITIONS = 64
"""Of each prompt, how many positions at its end are compared; logits of all would fill the memory."""
FLOAT32_ERROR = 1e-5
HALF_KL = 1e-3
HALF_AGREEMENT = 0.99
_HALF = (torch.bfloat16, torch.float16)

Prompts = Sequence[Prompt]
Logits = Sequence[torch.Tensor]
"""One tensor (n, V) float32 per prompt."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the three models said to the same prompts. `seeing`: the numbers of those with pictures."""

    base: Logits
    tuned: Logits
    merged: Logits
    seeing: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured, over all compared positions."""

    dtype: torch.dtype
    prompts: int
    seeing: int
    """How many of the prompts have pictures."""
    positions: int
    error: float
    """Largest difference of a logit between merged and base + adapter, relative to the largest logit."""
    kl: float
    """Mean KL divergence of merged from base + adapter, in nats per position; of the prompts with pictures
    alone, where that is more."""
    agreement: float
    """Share of positions at which both find the same token most likely."""
    change: float
    """Like `error`, between the base alone and base + adapter: what the adapter is worth."""

    def lines(self) -> list[str]:
        """The figures, each with what it has to be."""
        exact = self.dtype == torch.float32
        error = f"largest logit error {self.error:.1e} of the largest logit"
        kl = f"KL divergence {self.kl:.1e} nats"
        agreement = f"same most likely token at {self.agreement:.2%} of positions"
        pictures = f" ({self.seeing} with pictures)" if self.seeing else ""
        return [
            f"base + adapter against the merged folder ({dtype_name(self.dtype)}): "
            f"{self.prompts} prompts{pictures}, {self.positions} positions",
            error + (f" (at most {FLOAT32_ERROR:.0e})" if exact else ""),
            kl + ("" if exact else f" (at most {HALF_KL:.0e})"),
            agreement + ("" if exact else f" (at least {HALF_AGREEMENT:.0%})"),
            f"the adapter moves logits by up to {self.change:.1e} of the largest (more than the error)",
        ]

    def holds(self) -> bool:
        """Merged and base + adapter agree. NaN anywhere fails."""
        if self.dtype == torch.float32:
            return self.error <= FLOAT32_ERROR
        return self.kl <= HALF_KL and self.agreement >= HALF_AGREEMENT

    def require(self) -> None:
        """Raises ModelError with the figures unless merging changed something, and changed it rightly."""
        if self.change == 0:
            raise ModelError("the adapter changes nothing: base and base + adapter give the same logits")
        if not self.holds():
            said = "the merged model does not say what base + adapter say; nothing was written"
            raise ModelError(Lines([said, *self.lines()]))
        if not self.change > self.error:
            raise ModelError(
                f"rounding to {dtype_name(self.dtype)} loses what the adapter learnt (it moves "
                f"logits by {self.change:.1e}, rounding by {self.error:.1e}); merge with --dtype float32"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16`, as YAML, config.json and people spell it."""
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def logits_of(model: PreTrainedModel | PeftModel, prompts: Prompts, sight: Sight | None = None) -> Logits:
    """Logits at the last `POSITIONS` positions of each prompt, (<= POSITIONS, V) float32 on the CPU.

    `sight`: of the model's own folder. Raises ModelError for prompts with pictures where the model sees none.
    """
    base = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    shown = [prompt for prompt in prompts if prompt.pictures]
    vision = require_vision(base, sight) if shown else None
    with in_float32(model):
        texts = iter(_of_texts(model, [prompt.ids for prompt in prompts if not prompt.pictures]))
        views = iter([] if vision is None else [_of_view(model, prompt, vision) for prompt in shown])
        return [next(views if prompt.pictures else texts) for prompt in prompts]


def _of_texts(model: nn.Module, texts: Sequence[Sequence[int]]) -> Logits:
    """One batch, so that weights are widened once; padded on the right, which a causal model does not see."""
    if not texts:
        return []
    rows = [torch.tensor(list(text)) for text in texts]
    batch = pad_sequence(rows, batch_first=True).to(_device(model))
    logits = model(input_ids=batch, use_cache=False).logits
    ends = zip(map(len, rows), logits, strict=True)
    return [every[max(0, end - POSITIONS) : end].float().cpu().clone() for end, every in ends]


def _of_view(model: nn.Module, prompt: Prompt, vision: Vision) -> torch.Tensor:
    """Of a prompt with pictures, with the positions that it has in training."""
    device, ids = _device(model), torch.tensor(prompt.ids)
    patches, grids = vision.patches(prompt.pictures)
    logits = model(
        input_ids=ids[None].to(device),
        position_ids=vision.positions(ids, grids)[:, None].to(device),
        # Towers round what they see to the dtype of their weights: so that it is the same in each of them.
        pixel_values=patches.to(device, torch.bfloat16).float(),
        image_grid_thw=grids.to(device),
        use_cache=False,
        logits_to_keep=POSITIONS,
    ).logits
    return cast(torch.Tensor, logits[0].float().cpu())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Compute in float32 without holding the model in it: each module widens its own weights while it runs.

    Tables of a tower stay wide: GLM's reads that of its positions without running it.
    """
    half = {id(p): p.dtype for p in model.parameters() if p.dtype in _HALF}

    def widen(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        for parameter in _read_by(module):
            parameter.data = parameter.data.float()
        return tuple(_widened(argument) for argument in given)

    def narrow(module: nn.Module, *_: Any) -> None:
        for parameter in _read_by(module):
            parameter.data = parameter.data.to(half.get(id(parameter), parameter.dtype))

    tables = [m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and _in_tower(name)]
    owners = [m for m in model.modules() if any(id(p) in half for p in _read_by(m))]
    owners = [m for m in owners if m not in tables]
    hooks = [m.register_forward_pre_hook(widen) for m in owners]
    hooks += [m.register_forward_hook(narrow, always_call=True) for m in owners]
    try:
        for table in tables:
            widen(table, ())
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for table in tables:
            narrow(table)


def _read_by(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a module's own forward reads.

    peft's layer of trained tokens reads the weights of the layer below without running it.
    """
    below = module.get_base_layer() if isinstance(module, TrainableTokensLayer) else None
    return [*module.parameters(recurse=False), *(() if below is None else below.parameters())]


def _in_tower(module: str) -> bool:
    return is_in(f"{module}.weight", "tower")


def _widened(argument: Any) -> Any:
    """What a module is given that was made for its weights as they are stored."""
    narrow = isinstance(argument, torch.Tensor) and argument.dtype in _HALF
    return argument.float() if narrow else argument


def compare(answers: Answers, dtype: torch.dtype) -> Proof:
    """Measure merged, stored in `dtype`, against base + adapter, and those against the base alone."""
    base, tuned, merged = (torch.cat(list(logits)) for logits in (answers.base, answers.tuned, answers.merged))
    return Proof(
        dtype=dtype,
        prompts=len(answers.tuned),
        seeing=len(answers.seeing),
        positions=len(tuned),
        error=_distance(tuned, merged),
        kl=max(_divergence(tuned, merged), _divergence_of_views(answers)),
        agreement=float((tuned.argmax(-1) == merged.argmax(-1)).double().mean()),
        change=_distance(tuned, base),
    )


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


def _divergence_of_views(answers: Answers) -> float:
    """Of the prompts with pictures; 0 where there are none. A few of them would be lost in the mean of all."""
    if not answers.seeing:
        return 0.0
    tuned, merged = (
        torch.cat([said[i] for i in sorted(answers.seeing)]) for said in (answers.tuned, answers.merged)
    )
    return _divergence(tuned, merged)


def _divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL(one || other) in nats. Row by row: doubles of a large vocabulary are heavy."""
    rows = zip(one.split(16), other.split(16), strict=True)
    return sum(float(_kl(p.double(), q.double()).sum()) for p, q in rows) / len(one)


def _kl(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    log_p, log_q = one.log_softmax(-1), other.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
