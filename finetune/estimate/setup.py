"""What decides the memory of a run: read once from the configuration, and varied to see what would fit."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from finetune.config.deepspeed import wants_bf16, zero_stage
from finetune.config.schema import Config
from finetune.config.sections import MasterWeights
from finetune.estimate.method import Method, method_of
from finetune.estimate.precision import Precision, precision_of
from finetune.estimate.processor import Processor
from finetune.estimate.shape import Shape

Device = Literal["cpu", "cuda"]
Sharing = Literal["alone", "ddp", "zero-1", "zero-2", "zero-3", "fsdp2"]


@dataclass(frozen=True, slots=True)
class Setup:
    """A model, what of it learns, and how it is computed.

    stored: dtype of the frozen weights. compute_bytes: of a number in a matrix product. residual_bytes: of one
    between the layers. autocast: whether weights are wider than the arithmetic. recompute: the interval of
    layers that are computed a second time in the backward pass; 0: none.
    """

    shape: Shape
    method: Method
    device: Device
    sharing: Sharing
    ranks: int
    stored: str
    compute_bytes: int
    residual_bytes: int
    autocast: bool
    optim: str
    precision: Precision
    library_bytes: int = 0
    masters: MasterWeights = "float32"
    quantization: Literal["nf4", "int8"] | None = None
    recompute: int = 0

    @classmethod
    def of(
        cls,
        config: Config,
        shape: Shape,
        *,
        device: Device,
        ranks: int,
        processor: Processor | None = None,
        begun_in: str | None = None,
    ) -> Self:
        """As `config` asks for it in `ranks` processes. Raises ModelError for an unreadable adapter.

        processor: of a CPU; None: no figures of it. begun_in: the dtype of a run that is resumed.
        """
        placement, method = config.training_args.placement, method_of(config, shape)
        sharing, figures = _sharing(config, ranks), processor or Processor()
        precision = precision_of(
            shape.dtype,
            config.model.dtype,
            figures.slowdown if device == "cpu" else {},
            begun_in=begun_in,
            bound=bound_to_dtype(config, ranks),
        )
        stored = precision.held
        narrow = stored == "BF16" or (placement.bf16 and not precision.widened)
        if sharing.startswith("zero"):
            said = wants_bf16(placement.deepspeed or {})
            stored = "BF16" if (narrow if said is None else said) else "F32"
            autocast = False
        elif config.run.master_weights != "float32":
            autocast = False  # what learns is bfloat16 itself
        else:
            autocast = narrow and (method.kind == "full" or stored == "F32" or method.whole > 0)
        wide = stored == "F32" or (autocast and method.kind == "full")
        return cls(
            shape=shape,
            method=method,
            device=device,
            sharing=sharing,
            ranks=ranks,
            stored=stored,
            compute_bytes=2 if autocast or stored != "F32" else 4,
            residual_bytes=4 if wide else 2,
            autocast=autocast,
            optim=config.training_args.optimizer.optim,
            precision=precision,
            library_bytes=figures.library_bytes,
            masters=config.run.master_weights,
            quantization=config.model.quantization,
            recompute=1 if placement.gradient_checkpointing else 0,
        )

    @property
    def by_layer(self) -> Self | None:
        """The same arithmetic on weights that stay as stored; None where that changes nothing."""
        if not self.precision.widened or self.method.kind == "full" or self.quantization is not None:
            return None
        precision = self.precision.in_memory(by_layer=True)
        return replace(self, precision=precision, stored=precision.held)

    @property
    def recomputed_layers(self) -> int:
        return -(-self.shape.layers // self.recompute) if self.recompute else 0

    @property
    def shares_weights(self) -> bool:
        """Whether a process holds only a part of the weights."""
        return self.sharing in ("zero-3", "fsdp2")


def bound_to_dtype(config: Config, ranks: int) -> str | None:
    """The key with which weights are computed in the dtype they are stored in, whatever the processor."""
    sharing = _sharing(config, ranks)
    if config.run.master_weights != "float32":
        return f"run.master_weights: {config.run.master_weights}"
    if sharing.startswith("zero"):
        return "training_args.deepspeed"
    return "training_args.fsdp" if sharing == "fsdp2" else None


def _sharing(config: Config, ranks: int) -> Sharing:
    placement = config.training_args.placement
    if ranks == 1:
        return "alone"
    stage = zero_stage(placement.deepspeed)
    if stage:
        stages: tuple[Sharing, ...] = ("zero-1", "zero-2", "zero-3")
        return stages[stage - 1]
    return "fsdp2" if placement.sharding is not None else "ddp"


@dataclass(frozen=True, slots=True)
class Load:
    """The largest micro-batch of a process: its tokens, and the supervised among them.

    conversations: how many there are. longest: tokens of the longest of all. span: tokens of the conversation
    in which a token stands, on average over the tokens. alone: whether a step is one micro-batch.
    patches: of all its pictures, `tower.merge` squared for each token of a picture. more_patches: of all
    pictures of the data, which stay in the process's memory for a while.
    """

    tokens: int
    supervised: int
    conversations: int
    longest: int
    span: float
    alone: bool = False
    patches: int = 0
    more_patches: int = 0
