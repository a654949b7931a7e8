"""Our own training, one feature at a time switched off. A rung: a name and what `--set` would be given."""

from scripts.benchmark.tools import Ours

RUNGS: dict[str, tuple[str, ...]] = {
    "one conversation at a time": ("run.tokens_per_micro_batch=1",),
    "one at a time, stock attention": ("model_config.attention=single",),
    "gradient checkpointing": ("training_args.gradient_checkpointing=true",),
    "unfused optimizer": ("training_args.optim=adamw_torch",),
    "float32": ("model_config.dtype=float32",),
}


def rungs() -> list[Ours]:
    """As it is, then each feature off by itself."""
    switched = [Ours(name, " ".join(overrides), overrides) for name, overrides in RUNGS.items()]
    return [Ours("as it is", ""), *switched]
