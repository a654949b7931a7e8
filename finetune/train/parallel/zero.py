"""DeepSpeed ZeRO: processes share optimizer and gradients (stages 1 and 2), and the weights too (stage 3).

Our loop decides when a step ends; DeepSpeed exchanges gradients, clips, gates and updates. Its own checkpoints
are pickles, so they are not used: weights and optimizer memory are taken out and put back by parameter name.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finetune import world
from finetune.config.modules import is_in
from finetune.errors import MissingLibraryError
from finetune.model.batch import Batch
from finetune.model.head import SupervisedLoss
from finetune.model.tuned import Tuned
from finetune.train.checkpoint.holder import (
    apply_settings,
    describe_groups,
    require_same_groups,
    settings_of,
)
from finetune.train.checkpoint.state import OptimizerState, Parts, put_together
from finetune.train.parallel.back_end import Update
from finetune.train.parallel.layers import layers_of, set_dtypes


def load_deepspeed() -> Any:
    """The library, quiet, in our process group (of one, where a single process offloads).

    Raises MissingLibraryError.
    """
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        raise MissingLibraryError("training_args.deepspeed", "deepspeed", "deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls torch by names that torch is renaming, and says so in every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    # Between CPU processes it would compile a transport of its own (a minute, and a C++ compiler); gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(store=torch.distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_init_required=False)
    return deepspeed


def shard(tuned: Tuned, content: Mapping[str, Any], dtype: torch.dtype) -> None:
    """For stage 3: take the model apart, layer by layer, so that no process holds all of it on its device."""
    deepspeed = load_deepspeed()
    for part in layers_of(tuned):
        set_dtypes(part, trainable=dtype, frozen=dtype)
        deepspeed.zero.Init(module=part, config_dict_or_path=dict(content), dtype=dtype)
    rest = [p for p in tuned.model.parameters() if not hasattr(p, "ds_id")]
    assert not rest, "layers_of leaves nothing out"
    for reader, table in _read_from_outside(tuned.base):
        deepspeed.zero.register_external_parameter(reader, table)


def _read_from_outside(base: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Parts of a vision tower that take the table of an embedding layer without calling it, and the table.

    The layer's own hooks do not gather it then. DeepSpeed finds out by itself in forwards of its engine only,
    and not all of ours are: the trials before training, evaluation, generation.
    """
    for name, module in base.named_modules():
        if is_in(name, "vision"):
            for part in module.modules():
                if isinstance(part, nn.Embedding) and part is not module:
                    yield from ((module, table) for table in part.parameters(recurse=False))


class Zero:
    """A BackEnd around DeepSpeed's engine. `content`: its configuration, complete (`config.deepspeed.fill`)."""

    lockstep = True
    shares = True

    def __init__(
        self,
        objective: SupervisedLoss,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        content: Mapping[str, Any],
    ) -> None:
        deepspeed = load_deepspeed()
        self.stage = int(content["zero_optimization"]["stage"])
        self.name = f"zero-{self.stage}"
        groups = describe_groups(optimizer, parameters)
        # An adapter of float32 on a base of bfloat16: the engine would begin from what it rounds.
        rounds = content["bf16"]["enabled"] and self.stage < 3
        precise = {n: p.detach().clone() for n, p in parameters.items() if rounds and p.dtype == torch.float32}
        self._reached: set[str] = set()
        self._watch(parameters)
        self._engine, *_ = deepspeed.initialize(model=objective, optimizer=optimizer, config=dict(content))
        self.holder = _ZeroHolder(self._engine, parameters, groups, self.stage)
        self._parameters = parameters
        self.holder.write(precise)

    def accumulate(self, batch: Batch, scale: float, *, last: bool) -> Tensor:
        self._engine.set_gradient_accumulation_boundary(last)
        summed: Tensor = self._engine(batch)
        # ZeRO averages
        self._engine.backward(summed * (scale * world.world_size()), scale_wrt_gas=False)
        return summed.detach()

    def update(self, *, loss: float, max_grad_norm: float) -> Update:
        if not math.isfinite(loss):
            self._refuse_gradients()
        self._engine.step()
        applied = bool(self._engine.was_step_applied())
        grad_norm = float(self._engine.get_global_grad_norm())
        return Update(grad_norm, applied)

    def gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        from deepspeed.utils import safe_get_full_grad

        for name, parameter in self._parameters.items():
            gradient = safe_get_full_grad(parameter)  # of all processes, which all ask for it
            yield name, gradient if name in self._reached else None

    def held(self, parameter: nn.Parameter) -> Tensor:
        share: Tensor = getattr(parameter, "ds_tensor", parameter)
        return share.detach()

    def whole(self, parameter: nn.Parameter) -> Tensor | Parts:
        if not hasattr(parameter, "ds_id"):
            return parameter.detach()
        return Parts(shape_of(parameter), parameter.dtype, lambda: _gathered(parameter))

    def _watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Note which parameters a gradient ever reaches: of the others, the engine tells zeros."""
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._reached.add(name))

    def _refuse_gradients(self) -> None:
        """One NaN is enough: the engine looks at the norm of all gradients together."""
        from deepspeed.utils import safe_set_full_grad

        parameter = next(iter(self._parameters.values()))
        safe_set_full_grad(parameter, torch.full(shape_of(parameter), math.nan, device=parameter.device))


class _ZeroHolder:
    """What the engine keeps in flat pieces, by parameter name."""

    def __init__(
        self, engine: Any, parameters: Mapping[str, nn.Parameter], groups: list[dict[str, Any]], stage: int
    ) -> None:
        self._engine, self._parameters, self._groups, self._stage = engine, parameters, groups, stage

    @property
    def _inner(self) -> torch.optim.Optimizer:
        """torch's optimizer, whose parameters are flat pieces now."""
        inner: torch.optim.Optimizer = self._engine.optimizer.optimizer
        return inner

    def parameters(self) -> Mapping[str, Tensor | Parts]:
        from deepspeed.utils import safe_get_full_fp32_param

        named = self._parameters.items()
        return {name: self._part(p, lambda p=p: safe_get_full_fp32_param(p)) for name, p in named}

    def memory(self) -> OptimizerState:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        settings = [settings_of(group) for group in self._inner.param_groups]
        names = [group["parameters"] for group in self._groups]
        groups = [{**s, "parameters": n} for s, n in zip(settings, names, strict=True)]
        state = OptimizerState({}, {name: {} for name in self._parameters}, groups)
        steps, keys = self._steps(), self._keys()
        for name, p in self._parameters.items():
            state.tensors[name] = {} if steps is None else {"step": steps.clone()}
            for key in keys:
                state.tensors[name][key] = self._part(
                    p, lambda p=p, key=key: safe_get_full_optimizer_state(p, key)
                )
        return state

    @torch.no_grad()
    def write(self, values: Mapping[str, Tensor]) -> None:
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param

        for name, whole in values.items():
            parameter = self._parameters[name]
            value = whole.to(parameter.device)
            safe_set_full_fp32_param(parameter, value.float())
            if self._stage < 3:
                parameter.copy_(value)
            else:
                with GatheredParameters([parameter], modifier_rank=0):
                    parameter.data.copy_(value)

    def write_memory(self, saved: OptimizerState) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        live = [{"parameters": group["parameters"]} for group in self._groups]
        require_same_groups(live, saved.groups)
        for group, settings in zip(self._inner.param_groups, saved.groups, strict=True):
            apply_settings(group, settings)
        some = next(iter(saved.tensors.values()), {})
        if not some:
            return
        self._make_memory(some)
        for name, parameter in self._parameters.items():
            for key, stored in saved.tensors[name].items():
                if key != "step":
                    safe_set_full_optimizer_state(parameter, put_together(stored).to(parameter.device), key)

    def _make_memory(self, example: Mapping[str, Tensor | Parts]) -> None:
        """What the optimizer would have made in its first step, to be filled: zeros, and the count of steps."""
        for flat in self._flat():
            memory: dict[str, Any] = {key: torch.zeros_like(flat.data) for key in example if key != "step"}
            if "step" in example:
                memory["step"] = put_together(example["step"]).clone()
            self._inner.state[flat] = memory
        self._link()

    def _link(self) -> None:
        """Tell every parameter where its memory lies.

        DeepSpeed does so after the first group's first update, when the other groups have no memory yet.
        """
        if self._stage < 3:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _part(self, parameter: nn.Parameter, gather: Any) -> Parts:
        return Parts(shape_of(parameter), torch.float32, lambda: gather().detach().cpu())

    def _memories(self) -> list[dict[str, Any]]:
        return [self._inner.state[flat] for flat in self._flat() if flat in self._inner.state]

    def _flat(self) -> list[Tensor]:
        """The pieces that torch's optimizer updates in this process, float32."""
        zero = self._engine.optimizer
        flat: list[Tensor] = (
            zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        )
        return flat

    def _steps(self) -> Tensor | None:
        steps = [memory["step"] for memory in self._memories() if "step" in memory]
        return torch.as_tensor(steps[0], dtype=torch.float32).cpu() if steps else None

    def _keys(self) -> list[str]:
        """Names of the memories that have the parameters' shape."""
        found = {
            key for memory in self._memories() for key, v in memory.items() if isinstance(v, Tensor) and v.dim()
        }
        return sorted(found)


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Of the whole parameter; what ZeRO-3 leaves of it has another."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _gathered(parameter: nn.Parameter) -> Tensor:
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()
