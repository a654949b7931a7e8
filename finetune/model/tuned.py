"""A model, and which of its weights learn. Loads no peft: a model without an adapter answers without it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import PeftModel

Kind = Literal["full", "adapter", "prefix", "prompt"]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A model ready to train."""

    model: "PreTrainedModel | PeftModel"
    kind: Kind
    base_dtype: torch.dtype
    """Of the base as it is stored: what a whole model is saved in, however wide it trains."""
    virtual_tokens: int = 0
    """How many a prefix or prompt puts before every conversation."""
    computed_in: torch.dtype | None = None
    """Of the products of frozen weights; None: `base_dtype`."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the products of frozen weights."""
        return self.computed_in or self.base_dtype

    @property
    def base(self) -> PreTrainedModel:
        """The model below the adapter, or the model itself."""
        base = self.model if isinstance(self.model, PreTrainedModel) else self.model.get_base_model()
        assert isinstance(base, PreTrainedModel)
        return base

    @property
    def mixed(self) -> bool:
        """Whether modules of a narrower base learn in float32 themselves: only autocast joins the two."""
        if isinstance(self.model, PreTrainedModel) or self.compute_dtype == torch.float32:
            return False
        settings = self.model.active_peft_config.to_dict()
        return bool(settings.get("modules_to_save")) or settings.get("bias", "none") != "none"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that learn, by name."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def frozen(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that must come out of training as they went in."""
        return ((name, p) for name, p in self.model.named_parameters() if not p.requires_grad)
