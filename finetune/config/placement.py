"""The `training_args` that decide where and in which precision a model is trained."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from finetune.config.fsdp import FsdpConfig, KnownWords, Sharding, sharding
from finetune.config.section import Count, OnlyFalse, Section


class GradientCheckpointing(Section):
    """Options of torch.utils.checkpoint."""

    use_reentrant: bool | None = None
    """Which of torch's two implementations; null: torch's advice, the non-reentrant one."""

    preserve_rng_state: bool = True
    """Draw the same dropout masks when recomputing."""

    determinism_check: Literal["default", "none"] = "default"
    """Compare shapes of what is recomputed with what was computed."""

    early_stop: bool = True
    """Stop recomputing as soon as everything needed is there."""


def _no_float16(value: bool) -> bool:
    if value:
        raise ValueError(
            "float16 gradients underflow without loss scaling, which finetune does not do; use bf16: true"
        )
    return value


def _not_compiled(value: bool) -> bool:
    if value:
        raise ValueError("finetune does not compile the model; remove it (default: false)")
    return value


class Placement(Section):
    """Where and in which precision is computed, and how a model is spread over processes."""

    bf16: bool = False
    """Compute in bfloat16; trained weights stay float32."""

    fp16: Annotated[bool, AfterValidator(_no_float16), OnlyFalse] = False
    """Refused when true: use bf16."""

    tf32: bool | None = None
    """Let float32 matrix products use TF32 on NVIDIA GPUs; null: torch's own setting."""

    use_cpu: bool = False
    """Train on the CPU even where there is a GPU."""

    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, more work; null: where nothing else fits."""

    gradient_checkpointing_kwargs: GradientCheckpointing | None = None
    """Options of that."""

    torch_compile: Annotated[bool, AfterValidator(_not_compiled), OnlyFalse] = False
    """Refused when true."""

    deepspeed: str | dict[str, Any] | None = None
    """DeepSpeed's JSON, or its content. Looked for here, beside the YAML, above it, among those shipped."""

    fsdp: KnownWords = None
    """Shard with FSDP2: true, or `full_shard` or `shard_grad_op`, and `offload`, in one text or a list."""

    fsdp_config: FsdpConfig | None = None
    """Options of that."""

    ddp_backend: Literal["nccl", "gloo", "mpi"] | None = None
    """How processes talk; null: nccl on GPUs, gloo on CPUs. The ddp_ keys are for several processes only."""

    ddp_timeout: Count = 1800
    """Seconds after which a silent process counts as dead."""

    ddp_find_unused_parameters: bool | None = None
    """Look for parameters without a gradient in every step; null: no."""

    ddp_bucket_cap_mb: Count | None = None
    """Megabytes of gradients sent at once; null: torch's own."""

    ddp_broadcast_buffers: bool | None = None
    """Send buffers from process 0 before each forward; null: no."""

    ddp_static_graph: bool | None = None
    """Promise that the same parameters are used in every step; null: no."""

    @property
    def sharding(self) -> Sharding | None:
        """What FSDP2 is told; None where it is not asked for."""
        return sharding(self.fsdp, self.fsdp_config)
