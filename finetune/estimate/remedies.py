"""Where a run does not fit: the smallest change that would make it fit, by the same arithmetic."""

from collections.abc import Iterator
from dataclasses import replace

from finetune.estimate.activations import NARROW
from finetune.estimate.choose import budgets, fits
from finetune.estimate.memory import memory_of
from finetune.estimate.method import Method, lora_of
from finetune.estimate.setup import Setup, Sharing
from finetune.estimate.work import Work

_MOST_PROCESSES = 64
_Change = tuple[str, Setup, Work, int]


def smallest_change(setup: Setup, work: Work, free: int, tokens: int) -> str | None:
    """What to set, with the memory it then takes; None where nothing that is known helps.

    tokens: of a micro-batch, as things are.
    """
    for words, changed, shorter, budget in _changes(setup, work, tokens):
        if fits(memory_of(changed, shorter.load(budget)), free):
            return words
    return None


def _changes(setup: Setup, work: Work, tokens: int) -> Iterator[_Change]:
    """From what costs least. What stands below is tried with what stands above it, where both go together."""
    for budget in budgets(setup.device, work):
        if budget < tokens:
            yield f"run.tokens_per_micro_batch: {budget}", setup, work, budget
    least = min(tokens, budgets(setup.device, work)[-1])
    bases, also = [(setup, "")], ""
    if setup.method.kind != "prefix" and setup.recompute != 1:
        also = " with training_args.gradient_checkpointing: true"
        bases.append((replace(setup, recompute=1), also))
        yield "training_args.gradient_checkpointing: true", bases[-1][0], work, tokens
    again = bases[-1][0]
    for way in (_other_models, _more_processes):
        for base, beside in bases:
            for words, changed in way(base):
                yield words + beside, changed, work, least
    for length in (work.longest // 2, work.longest // 4):
        if length:
            shorter = replace(work, longest=length, step_tokens=max(length, work.step_tokens // 2))
            yield f"examples of at most {length} tokens (max_input_length){also}", again, shorter, length


def _other_models(setup: Setup) -> Iterator[tuple[str, Setup]]:
    if setup.method.kind == "full":
        if setup.optim.startswith("adamw_torch") and setup.sharing in ("alone", "ddp"):
            yield "training_args.optim: adamw_8bit", replace(setup, optim="adamw_8bit")
        if setup.ranks == 1 and setup.precision.stored == "BF16" and setup.masters == "float32":
            yield "run.master_weights: split and training_args.optim: adamw_8bit", _narrow(setup)
        lora = _as_adapter(setup, lora_of(setup.shape))
        yield "a peft_config (LORA)", lora
        if not setup.shares_weights:
            yield "a peft_config (LORA) and model_config.quantization: nf4", replace(lora, quantization="nf4")
    elif setup.quantization is None and not setup.shares_weights:
        yield "model_config.quantization: nf4", replace(setup, quantization="nf4")


def _narrow(setup: Setup) -> Setup:
    """The same weights in bfloat16, computed as they are; the optimizer keeps the rest of them."""
    as_stored = replace(setup.precision, computed=setup.precision.stored)
    changed = replace(setup, masters="split", optim="adamw_8bit", autocast=False)
    changed = replace(changed, precision=as_stored, stored=as_stored.held)
    return replace(changed, compute_bytes=NARROW, residual_bytes=NARROW)


def _as_adapter(setup: Setup, method: Method) -> Setup:
    """The same model, frozen: in its own dtype, which is also that of the arithmetic."""
    narrow = 4 if setup.stored == "F32" and not setup.autocast else 2
    between = 4 if setup.stored == "F32" else 2
    changed = replace(setup, method=method, masters="float32", compute_bytes=narrow, residual_bytes=between)
    return replace(changed, autocast=setup.autocast and setup.stored == "F32")


def _more_processes(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """ZeRO-2 shares what is remembered of what learns; FSDP2 the weights, too."""
    ways: tuple[tuple[Sharing, str], ...] = (("zero-2", "deepspeed: ds_zero_2.json"), ("fsdp2", "fsdp: true"))
    for sharing, words in ways:
        count = 2
        while setup.quantization is None and count <= _MOST_PROCESSES:
            if count > setup.ranks or setup.sharing in ("alone", "ddp"):
                yield (
                    f"training_args.{words} and {count} processes",
                    replace(setup, sharing=sharing, ranks=count),
                )
            count *= 2
