"""Layers that keep less for the backward pass, on a CPU in float32: what is cheap to compute is computed again.

              kept by transformers' modules          kept here
    RMSNorm   x                                      x, one number a token
    gate      gate, up, silu(gate)                   gate, up

What comes of them carries a Recipe, by which LoRA (`low_rank`) need not keep its input either. The products,
which is all that costs time, are computed once. Values are the same bits, gradients the same sums.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

_TRIED = 8
"""Tokens with which a module is compared with what takes its place."""

_SIZES = (2.0, 1e3, 1e6)
"""Of the numbers in them: some feed-forward layers clamp what is large, and nothing small shows it."""


@dataclass(slots=True)
class Shared:
    """What several layers need of one recipe: made for the first, dropped behind the last."""

    users: int = 0
    made: Tensor | None = None

    def take(self, make: Callable[..., Tensor], *of: Tensor) -> Tensor:
        """What `make` gives, for one of the users."""
        made = make(*of) if self.made is None else self.made
        self.users -= 1
        self.made = made if self.users > 0 else None
        return made


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a tensor again: `make(*of)`, from tensors that are kept anyway."""

    make: Callable[..., Tensor]
    of: tuple[Tensor, ...]
    shared: Shared = field(default_factory=Shared)


def recipe_of(x: Tensor) -> Recipe | None:
    """The recipe of a tensor that came from a layer of ours; None: it must be kept."""
    found = getattr(x, "recipe", None)
    return found if isinstance(found, Recipe) else None


def keep_less(model: nn.Module) -> None:
    """Let norms and gated feed-forward layers of `model` keep less, where that gives what they gave before."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            _replace(module, _norm_forward)
        elif hasattr(module, "down_proj") and hasattr(module, "gate_proj") and hasattr(module, "up_proj"):
            _replace(module, _gated_forward)
        elif hasattr(module, "down_proj") and hasattr(module, "gate_up_proj"):
            _replace(module, _joined_forward)


def _replace(module: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> None:
    """Give a module this forward for float32 if both say the same of a few tokens; else it keeps its own."""
    own = module.forward
    drops = any(isinstance(part, nn.Dropout) and part.p for part in module.children())
    if not drops and _same(module, forward):

        def run(self: nn.Module, x: Tensor, *more: Any, **named: Any) -> Tensor:
            plain = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
            result: Tensor = forward(self, x) if plain and not (more or named) else own(x, *more, **named)
            return result

        module.forward = MethodType(run, module)


def _same(module: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> bool:
    """Whether `forward` gives to the bit what the module gives, for small and for large numbers."""
    if (width := _width(module)) is None:
        return False
    x = torch.linspace(-1, 1, _TRIED * width, dtype=torch.float32).view(1, _TRIED, width)
    was_training = module.training
    module.eval()  # adapters inside it drop nothing
    try:
        with torch.no_grad():
            return all(torch.equal(module(size * x), forward(module, size * x)) for size in _SIZES)
    except (RuntimeError, AttributeError, TypeError):
        return False
    finally:
        module.train(was_training)


def _width(module: nn.Module) -> int | None:
    """Of what a module is given; None where it is no float32 module of one width."""
    for part in (module, getattr(module, "gate_proj", None), getattr(module, "gate_up_proj", None)):
        weight = getattr(part, "weight", None)
        if isinstance(weight, Tensor) and weight.device.type == "cpu":
            return int(weight.shape[-1])
    return None


def _norm_forward(module: Any, x: Tensor) -> Tensor:
    result, scale = _Norm.apply(x, module.weight, module.variance_epsilon)
    result.recipe = Recipe(_normed, (x.detach(), scale, module.weight.detach()))
    return cast(Tensor, result)


def _gated_forward(module: Any, x: Tensor) -> Tensor:
    result: Tensor = module.down_proj(_gated(module.gate_proj(x), module.up_proj(x)))
    return result


def _joined_forward(module: Any, x: Tensor) -> Tensor:
    result: Tensor = module.down_proj(_gated(*module.gate_up_proj(x).chunk(2, dim=-1)))
    return result


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    result: Any = _Gated.apply(gate, up)
    result.recipe = Recipe(_gate, (gate.detach(), up.detach()))
    return cast(Tensor, result)


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate).mul_(up)  # in place: what comes and goes leaves holes between what is kept


def _normed(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    return (x * scale).mul_(weight)


class _Norm(torch.autograd.Function):
    """y = w · x · s with s = 1 / sqrt(mean(x²) + eps), over (…, H) in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _normed(x, scale, weight), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        of_weight = (slope * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        inner = slope * weight
        of_x = inner.sub_(normed.mul_((inner * normed).mean(-1, keepdim=True))).mul_(scale)
        return of_x, of_weight, None


class _Gated(torch.autograd.Function):
    """silu(gate) · up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gate(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        of_up = silu(gate).mul_(slope)
        of_gate = torch.ops.aten.silu_backward(slope * up, gate)
        return of_gate, of_up
