"""AdamW for whole models in bfloat16, with the accuracy of float32 weights or without a bias in its rounding.

Bytes for each number that learns:

    run.master_weights             float32   split          stochastic
    weights in the model                 4   2              2
    what bfloat16 lacks of float32       -   2              -
    gradients                            4   2 (4)          2 (4)
    two moments                          8   2.03 or 8      2.03 or 8
    together                            16   8.03 to 16     6.03 to 14
    9.4 billion of them             150 GB   76 to 150 GB   57 to 132 GB

Gradients of bfloat16 weights are bfloat16. A step of several micro-batches adds them up in float32 (4): a sum
in bfloat16 would lose what is smaller than a 256th of it. Moments take 1 byte each with `optim: adamw_8bit`.

split       The model holds the upper half of each float32 number, rounded to the nearest bfloat16, the
            optimizer the lower half: what that is off by. Joined they are the float32 weight, bit for bit.
stochastic  Only the bfloat16 weight is kept. An update smaller than its precision is taken with the probability
            that makes it right on average, where rounding to the nearest would never take it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from finetune.config.sections import MasterWeights

CHUNK = 1 << 24
"""Numbers that are float32 at once, a multiple of BLOCK: half a gigabyte with all that is computed of them."""
CHUNK_ON_CPU = 1 << 18
"""There what is computed of them must fit the cache: with 2^24 of them a step takes four times as long."""
BLOCK = 256
"""Numbers that share the scale of an 8-bit moment."""

_HALF = 0x8000
_TINY = torch.finfo(torch.float32).tiny


class NarrowAdamW(torch.optim.Optimizer):
    """torch's AdamW on float32 weights of which the model holds bfloat16 ones; `masters`: split or stochastic.

    eight_bit: moments in 8 bits, in blocks of BLOCK numbers; else float32. Parameters that are float32 stay so.
    Raises ValueError for what is neither, and for options out of range.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        masters: MasterWeights,
        eight_bit: bool,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas must be from 0 to below 1, found {betas}")
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._split, self._eight_bit = masters == "split", eight_bit
        self.gradient_scale = 1.0
        """What gradients are multiplied with in the next step, in float32; 1 again behind it."""
        for parameter in self._parameters():
            if parameter.dtype not in (torch.bfloat16, torch.float32):
                raise ValueError(f"a parameter is {parameter.dtype}; bfloat16 and float32 can be trained")
            parameter.data = parameter.data.contiguous()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        self.gradient_scale = 1.0

    def add_gradients_in(self, dtype: torch.dtype) -> None:
        """Let the gradients of the next step be kept in `dtype`; there must be none yet."""
        for parameter in self._parameters():
            if parameter.dtype == torch.bfloat16:
                parameter.grad_dtype = dtype

    @property
    def has_gradients(self) -> bool:
        """Whether a micro-batch of this step is computed already."""
        return any(parameter.grad is not None for parameter in self._parameters())

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter] or self._fresh(parameter)
        state["step"] += 1
        weights, gradient = parameter.data.view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        flat = {key: tensor.view(-1) for key, tensor in state.items() if key != "step"}
        chunk = CHUNK_ON_CPU if weights.device.type == "cpu" else CHUNK
        for start in range(0, len(weights), chunk):
            here = slice(start, min(start + chunk, len(weights)))
            blocks = slice(start // BLOCK, -(-here.stop // BLOCK))
            piece = {key: tensor[blocks if key.endswith("_scale") else here] for key, tensor in flat.items()}
            wide = gradient[here].float() * self.gradient_scale
            self._update_piece(weights[here], wide, piece, int(state["step"]), group)

    def _fresh(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Of a parameter that was never updated: moments of zero, and a master that is the weight itself."""
        state = self.state[parameter]
        state["step"] = torch.tensor(0.0)
        if self._split and parameter.dtype == torch.bfloat16:
            state["low"] = torch.zeros_like(parameter, dtype=torch.int16)
        for name, code in (("exp_avg", torch.int8), ("exp_avg_sq", torch.uint8)):
            dtype = code if self._eight_bit else torch.float32
            state[name] = torch.zeros_like(parameter, dtype=dtype)
            if self._eight_bit:
                blocks = -(-parameter.numel() // BLOCK)
                state[f"{name}_scale"] = torch.zeros(blocks, dtype=torch.float32, device=parameter.device)
        return state

    def _update_piece(
        self, weights: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int, group: dict[str, Any]
    ) -> None:
        (beta1, beta2), rate = group["betas"], group["lr"]
        first, second = self._moments(state)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self._keep(state, first, second)
        master = join(weights, state["low"]) if "low" in state else weights.float()
        master.mul_(1 - rate * group["weight_decay"])
        denominator = second.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        master.addcdiv_(first, denominator, value=-rate / (1 - beta1**step))
        if "low" in state:
            part(master, weights, state["low"])
        elif weights.dtype == torch.bfloat16:
            weights.copy_(round_stochastically(master))
        else:
            weights.copy_(master)

    def _moments(self, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """In float32; changed in place they are the state itself where that is float32."""
        if not self._eight_bit:
            return state["exp_avg"], state["exp_avg_sq"]
        return (
            decode_signed(state["exp_avg"], state["exp_avg_scale"]),
            decode_positive(state["exp_avg_sq"], state["exp_avg_sq_scale"]),
        )

    def _keep(self, state: dict[str, Tensor], first: Tensor, second: Tensor) -> None:
        if self._eight_bit:
            encode_signed(first, state["exp_avg"], state["exp_avg_scale"])
            encode_positive(second, state["exp_avg_sq"], state["exp_avg_sq_scale"])


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 numbers that `part` took apart: (bits of `high` << 16) + `low`."""
    return (high.view(torch.int16).to(torch.int32) << 16).add_(low).view(torch.float32)


def part(master: Tensor, high: Tensor, low: Tensor) -> None:
    """Write float32 numbers as the nearest bfloat16 (`high`) and the difference of the bits (`low`, int16).

    With b the 32 bits as a number, high = (b + 0x8000) >> 16 and low = b - (high << 16): from -0x8000 to
    0x7fff, so 16 bits hold it, for each of the 2^32 patterns. Halfway cases go away from zero; had they gone to
    the even one, as torch rounds, low could be 0x8000 as well.
    """
    bits = master.view(torch.int32)
    upper = (bits + _HALF) >> 16
    high.view(torch.int16).copy_(upper)
    low.copy_(bits - (upper << 16))


def round_stochastically(master: Tensor) -> Tensor:
    """bfloat16, up or down with the probability that makes the mean right.

    A random number below 2^16 is added to the bits, whose lower half is then dropped.
    """
    noise = torch.randint(0, 1 << 16, master.shape, dtype=torch.int32, device=master.device)
    return ((master.view(torch.int32) + noise) >> 16).to(torch.int16).view(torch.bfloat16)


def encode_signed(values: Tensor, codes: Tensor, scale: Tensor) -> None:
    """(N,) float32 as `codes` (N,) int8 and `scale` (blocks,): a number is scale · (code / 127)³.

    The cube spends the codes where the numbers are: a first moment may be a millionth of its block's largest.
    """
    blocks = _in_blocks(values)
    scale.copy_(blocks.abs().amax(1))
    shares = blocks / scale.clamp_min(_TINY)[:, None]
    roots = shares.abs().pow_(1 / 3).mul_(127).round_().copysign_(shares)
    codes.copy_(roots.view(-1)[: len(values)])


def decode_signed(codes: Tensor, scale: Tensor) -> Tensor:
    shares = codes.float().div_(127)
    return _scaled(shares * shares * shares, scale)


def encode_positive(values: Tensor, codes: Tensor, scale: Tensor) -> None:
    """(N,) float32, none negative, as `codes` (N,) uint8 and `scale`: a number is scale · (code / 255)⁴.

    What is not zero stays so: it is divided by its root.
    """
    blocks = _in_blocks(values)
    scale.copy_(blocks.amax(1))
    shares = blocks / scale.clamp_min(_TINY)[:, None]
    roots = shares.sqrt().sqrt_().mul_(255).round_().clamp_min_(1).mul_(shares > 0)
    codes.copy_(roots.view(-1)[: len(values)])


def decode_positive(codes: Tensor, scale: Tensor) -> Tensor:
    squares = codes.float().div_(255).square_()
    return _scaled(squares * squares, scale)


def _in_blocks(values: Tensor) -> Tensor:
    """(blocks, BLOCK); the last one filled up with zeros."""
    lacking = -len(values) % BLOCK
    return (nn.functional.pad(values, (0, lacking)) if lacking else values).view(-1, BLOCK)


def _scaled(shares: Tensor, scale: Tensor) -> Tensor:
    """`shares` (N,) times the scale of the block each lies in."""
    whole = len(shares) // BLOCK
    shares[: whole * BLOCK].view(-1, BLOCK).mul_(scale[:whole, None])
    if whole < len(scale):
        shares[whole * BLOCK :].mul_(scale[whole])
    return shares
