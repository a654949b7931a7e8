"""Where a prefix starts: written once the model lies on its devices, the same in all processes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune import log
from finetune.config.tuning import PrefixTuning
from finetune.data.opening import opening_tokens
from finetune.errors import ConfigError
from finetune.model.head import SupervisedLoss
from finetune.model.prefix import keys_and_values, projection_weights
from finetune.model.tuned import Tuned
from finetune.train.checkpoint.state import Parts, put_together
from finetune.train.parallel import group
from finetune.train.parallel.back_end import BackEnd
from finetune.train.prepare import Prepared

_ENCODER = "prompt_encoder.default."
_BEFORE_THE_LAST = ("embedding.weight", "transform.0.weight", "transform.0.bias")


@dataclass(frozen=True, slots=True)
class Opening:
    """The tokens that a prefix starts as. text: of them, for people. asked: the configuration names it."""

    ids: list[int]
    text: str
    asked: bool

    @classmethod
    def of(cls, prepared: Prepared) -> "Opening | None":
        """As `prefix_init` says; None where nothing is to be written."""
        tuning = prepared.config.peft_config
        if not isinstance(tuning, PrefixTuning) or (how := tuning.starts_as) == "random":
            return None
        template = prepared.template
        text, count = tuning.prefix_init_text, tuning.num_virtual_tokens
        ids = opening_tokens(how, text, count, prepared.examples, template)
        asked = tuning.prefix_init is not None or text is not None
        return cls(ids, str(template.tokenizer.decode(ids)), asked)

    def write(self, tuned: Tuned, objective: SupervisedLoss, back_end: BackEnd, device: torch.device) -> None:
        """Give the prefix the keys and values of these tokens. All processes call it at once.

        Raises ConfigError where that was asked for and cannot be.
        """
        try:
            with objective.autocast(device):
                wanted = keys_and_values(tuned.base, self.ids, device).cpu()
            values = _encoder_values(back_end.holder.parameters(), wanted)
        except ConfigError as error:
            if self.asked:
                raise ConfigError(f"peft_config.prefix_init: {error}") from error
            log.info(f"the prefix starts at random: {error}")
            return
        back_end.holder.write({f"{_ENCODER}{name}": value for name, value in values.items()})
        log.info(f"the prefix starts as what the model keeps of {_shown(self.text)}")


def _encoder_values(parameters: Mapping[str, Tensor | Parts], wanted: Tensor) -> dict[str, Tensor]:
    """Weights of the encoder, by name, that give `wanted`: the main process's, in every process."""
    if f"{_ENCODER}transform.2.weight" not in parameters:
        return group.decide(lambda: {"embedding.weight": wanted})
    embedding, weight, bias = (put_together(parameters[f"{_ENCODER}{name}"]).cpu() for name in _BEFORE_THE_LAST)
    last, last_bias = group.decide(lambda: projection_weights(embedding, weight, bias, wanted))
    return {"transform.2.weight": last, "transform.2.bias": last_bias}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
