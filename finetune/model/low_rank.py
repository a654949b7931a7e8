"""LoRA (arXiv:2106.09685) on a linear layer as one function: y = x Wᵀ + s · (x Aᵀ) Bᵀ.

Products are in the dtype of x, which is W's or wider; peft's own widens x to the dtype of A, and makes and adds
two results of the size of y. What is kept for the backward pass is x, or what it can be made of again (`lean`),
and r values a token. Products with the low side come as (r, T): in that order they are fastest on CPUs.
"""

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finetune.model.by_layer import is_by_layer, widened_linear
from finetune.model.lean import Recipe, recipe_of


class LowRankLinear(Linear):
    """peft's layer, computed at once where nothing but plain LoRA is asked of it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter = self._plain_adapter(x)
        if adapter is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base, low, high = (
            cast(nn.Linear, layer)
            for layer in (self.get_base_layer(), self.lora_A[adapter], self.lora_B[adapter])
        )
        weights = (base.weight, base.bias, low.weight, high.weight)
        recipe = recipe_of(x)
        result: Tensor = _Product.apply(
            x, self.lora_dropout[adapter](x), *weights, self.scaling[adapter], recipe
        )
        return result

    def _plain_adapter(self, x: Tensor) -> str | None:
        """The one adapter that is on and is plain LoRA; None: peft's own forward must do it."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1 or active[0] in self.lora_variant:
            return None
        base = cast(nn.Linear, self.get_base_layer())
        plain = (
            (x.dtype == base.weight.dtype or is_by_layer(base.weight, x))
            and not torch.is_autocast_enabled(x.device.type)
            and self.lora_B[active[0]].bias is None
            and not any(parameter.requires_grad for parameter in base.parameters())
            and not hasattr(base.weight, "ds_id")  # gathered by hooks around the base layer's own forward
        )
        return active[0] if plain else None


class _Product(torch.autograd.Function):
    """x (…, in) to (…, out): the layer of `weight` (out, in), beside it A `low` (r, in) and B `high` (out, r).

    dropped: x as the adapter sees it; x itself where there is no dropout. Weight and bias are frozen.
    recipe: of x, which then need not be kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        low: Tensor,
        high: Tensor,
        scaling: float,
        recipe: Recipe | None,
    ) -> Tensor:
        seen = dropped.reshape(-1, dropped.shape[-1])
        narrow, scaled = low.to(x.dtype), (high * scaling).to(x.dtype)
        inner = narrow @ seen.t()
        y = widened_linear(x, weight, bias)
        y.view(-1, y.shape[-1]).addmm_(inner.t(), scaled.t())
        ctx.apart, ctx.scaling, ctx.wide = dropped is not x, scaling, low.dtype
        kept: tuple[Tensor, ...] = (seen,)
        ctx.make = None
        if recipe is not None and not ctx.apart:
            ctx.make, ctx.shared, kept = recipe.make, recipe.shared, recipe.of
            recipe.shared.users += 1
        ctx.save_for_backward(weight, narrow, scaled, inner, *kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        weight, narrow, scaled, inner, *kept = ctx.saved_tensors
        seen = kept[0] if ctx.make is None else ctx.shared.take(ctx.make, *kept)
        seen = seen.reshape(-1, seen.shape[-1])
        flat = slope.reshape(-1, slope.shape[-1])
        shape = (*slope.shape[:-1], seen.shape[-1])
        inner_slope = scaled.t() @ flat.t()
        of_low = (inner_slope @ seen).to(ctx.wide)
        of_high = (inner @ flat).t().to(ctx.wide) * ctx.scaling
        of_x, of_dropped = None, None
        if ctx.needs_input_grad[0]:
            of_x = flat @ weight.to(flat.dtype)
            if not ctx.apart:
                of_x.addmm_(inner_slope.t(), narrow)
            of_x = of_x.view(shape)
        if ctx.apart and ctx.needs_input_grad[1]:
            of_dropped = (inner_slope.t() @ narrow).view(shape)
        return of_x, of_dropped, None, None, of_low, of_high, None, None
