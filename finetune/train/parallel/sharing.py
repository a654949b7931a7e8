"""Which back end a configuration asks for, and what it takes to get there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from finetune import log, world
from finetune.config.deepspeed import fill, wants_bf16
from finetune.config.schema import Config
from finetune.config.sharding import why_not_shared
from finetune.errors import ConfigError
from finetune.model.head import SupervisedLoss
from finetune.model.load import DTYPES, read_model_config, stored_dtype
from finetune.model.tuned import Tuned
from finetune.train.parallel.back_end import BackEnd
from finetune.train.parallel.replicated import Replicated


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the processes of a run share the model: `replicated` (each has all of it), `fsdp2` or `zero`."""

    config: Config
    kind: str
    dtype: torch.dtype
    """Of the frozen weights, and of a whole model when it is saved."""
    zero: Mapping[str, Any]
    """DeepSpeed's configuration, complete; empty without."""

    @classmethod
    def of(cls, config: Config, model: str) -> "Sharing":
        """What `deepspeed` or `fsdp` and the number of processes come to. Says what it fills in."""
        placement = config.training_args.placement
        shape = read_model_config(model, config.model)
        dtype = DTYPES.get(config.model.dtype) or stored_dtype(shape)
        alone = world.world_size() == 1
        _refuse_wide_base(config, dtype)
        if placement.deepspeed is not None:
            said = wants_bf16(placement.deepspeed)
            made = fill(
                placement.deepspeed,
                config.training_args,
                bf16=(placement.bf16 or dtype == torch.bfloat16) if said is None else said,
                hidden_size=shape.get_text_config().hidden_size,
                world_size=world.world_size(),
                conversations_per_step=config.run.conversations_per_step,
            )
            if made.stage == 0 or (alone and not made.offloads):
                log.info("deepspeed: there is nothing to share here; training without it, to the same numbers")
                return cls(config, "replicated", dtype, {})
            if config.run.auto_fit:
                raise ConfigError("run.auto_fit: DeepSpeed cannot begin a step anew; remove it")
            for notice in made.notices:
                log.info(notice)
            return cls(config, "zero", dtype, made.content)
        if placement.sharding is not None and not alone:
            return cls(config, "fsdp2", dtype, {})
        if placement.sharding is not None:
            log.info("fsdp: one process has nothing to shard; training without it, to the same numbers")
        return cls(config, "replicated", dtype, {})

    @property
    def weights(self) -> bool:
        """Whether the weights are shared out too, so that nobody may load all of them."""
        return self.kind == "fsdp2" or (self.kind == "zero" and self.zero["zero_optimization"]["stage"] == 3)

    @property
    def narrow(self) -> bool:
        """Whether weights learn in bfloat16, and the optimizer sees to what they lack of float32."""
        return self.config.run.master_weights != "float32"

    @property
    def reentrant_checkpointing(self) -> bool:
        """ZeRO-3 gathers weights in hooks, which torch's non-reentrant recomputation runs at the wrong time."""
        return self.kind == "zero" and self.weights

    @property
    def _engine_dtype(self) -> torch.dtype:
        """Of all weights under DeepSpeed, which keeps float32 copies of those that learn."""
        return torch.bfloat16 if self.zero["bf16"]["enabled"] else torch.float32

    def load_dtype(self) -> torch.dtype | None:
        """In which the base is loaded where it is not taken apart; None: as it is stored."""
        if self.kind == "zero":
            return self._engine_dtype
        return DTYPES.get(self.config.model.dtype)

    def refuse_adapter(self, tuned: Tuned) -> None:
        """Raises ConfigError for a given adapter that cannot be trained on shares."""
        if self.kind == "replicated" or not isinstance(tuned.model, PeftModel):
            return
        how = "fsdp" if self.kind == "fsdp2" else f"zero-{self.zero['zero_optimization']['stage']}"
        reason = why_not_shared(tuned.model.active_peft_config.to_dict(), how)
        if reason is not None:
            raise ConfigError(f"model_config.adapter: {reason}; use DeepSpeed's ZeRO-2, or no sharding")

    def take_apart(self, tuned: Tuned, device: torch.device) -> None:
        """Share out the weights, where they are shared."""
        if not self.weights:
            return
        if self.kind == "fsdp2":
            from finetune.train.parallel import fully_sharded

            section = self.config.training_args.placement.sharding
            assert section is not None
            fully_sharded.shard(
                tuned,
                device,
                layer_classes=section.layer_classes,
                reshard_after_forward=section.reshard_after_forward,
                cpu_offload=section.cpu_offload,
            )
        else:
            from finetune.train.parallel import zero

            zero.shard(tuned, self.zero, self._engine_dtype)

    def back_end(
        self,
        objective: SupervisedLoss,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> BackEnd:
        """What trains it. Libraries that a run does not use are not loaded."""
        if self.kind == "fsdp2":
            from finetune.train.parallel.fully_sharded import FullySharded

            return FullySharded(objective, parameters, optimizer)
        if self.kind == "zero":
            from finetune.train.parallel.zero import Zero

            return Zero(objective, parameters, optimizer, self.zero)
        return Replicated(objective, parameters, optimizer, self.config.training_args.placement)

    def autocast_dtype(self, tuned: Tuned) -> torch.dtype | None:
        """bfloat16 over wider weights, where `bf16` asks for it or the base came in it; None: as they are."""
        if self.kind == "zero" or self.narrow:
            return None  # the weights themselves are bfloat16
        if tuned.compute_dtype != tuned.base_dtype:
            return None  # computed in float32 because the processor is slow in what the base is stored in
        if tuned.mixed:
            return tuned.base_dtype
        narrow = torch.bfloat16
        wanted = self.config.training_args.placement.bf16 or tuned.base_dtype == narrow
        wide = tuned.kind == "full" or tuned.base_dtype == torch.float32
        return narrow if wanted and wide else None


def _refuse_wide_base(config: Config, dtype: torch.dtype) -> None:
    masters, name = config.run.master_weights, str(dtype).removeprefix("torch.")
    if masters != "float32" and dtype != torch.bfloat16:
        raise ConfigError(
            f"run.master_weights: {masters} keeps the weights in bfloat16, and the base is {name}; "
            "set model_config.dtype: bfloat16, or remove it"
        )
