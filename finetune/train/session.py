"""The part of a run that needs torch: make the trainee, loop, and say what came of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from finetune import log, world
from finetune.config.arguments import count_steps
from finetune.config.schema import Config
from finetune.data.dataset import Examples
from finetune.estimate.machine import in_words, resident_bytes
from finetune.estimate.processor import Processor
from finetune.folder import PREDICTIONS_FILE
from finetune.manifest import read_manifest
from finetune.model.batch import require_known_ids
from finetune.model.load import read_model_config, stored_dtype
from finetune.model.precision import spelt
from finetune.model.products import known_processor
from finetune.train.checkpoint.holder import check_parameters
from finetune.train.checkpoint.rng import restore_rng, seed_apart
from finetune.train.checkpoint.save import restore
from finetune.train.checkpoint.state import read_state
from finetune.train.fit import Fit
from finetune.train.loop import Loop
from finetune.train.memory import free_memory, kind_of, memory_errors, peak_memory
from finetune.train.monitor.monitor import Monitor
from finetune.train.monitor.trackers import Track, open_trackers
from finetune.train.opening import Opening
from finetune.train.parallel import group
from finetune.train.position import Position
from finetune.train.prepare import Prepared
from finetune.train.proofs import check_frozen, fingerprint_frozen
from finetune.train.record import RunRecord
from finetune.train.saver import Saver
from finetune.train.scoring import Scorer
from finetune.train.signals import StopSignals
from finetune.train.trainee import Trainee, effective, make_trainee


def train_model(
    prepared: Prepared,
    model: str,
    output: Path,
    checkpoint: Path | None,
    record: RunRecord,
    stop: StopSignals,
    *,
    profiled: bool = False,
) -> None:
    """Train from the checkpoint (None: from the start) to the last step, then evaluate on the test file.

    `profiled`: watch a few steps, and tell where their time goes.
    """
    config = prepared.config
    shape = read_model_config(model, config.model)
    _require_known_ids(prepared, shape)
    if config.training_args.saving.save_strategy == "no":
        log.warning("training_args.save_strategy: no: what is learnt is not kept when the run ends")
    device = group.join(config.training_args.placement)
    free, told_dtype = min(group.gather(free_memory(device))), spelt(stored_dtype(shape))
    prepared = prepared.fitted(kind_of(device), free, _processor(device), told_dtype)
    with memory_errors(lambda: ("loading the model", _smaller(config))):
        trainee = make_trainee(
            config,
            model,
            device,
            longest=_longest(prepared),
            total_steps=prepared.total_steps,
            recompute=prepared.recompute or 0,
            sight=prepared.template.sight,
            opening=Opening.of(prepared),
            precision=prepared.precision,
        )
    frozen = fingerprint_frozen(trainee.tuned, trainee.back_end.held)
    saver = Saver(output, config.training_args.saving, trainee, prepared.template, prepared.identity)
    position = _go_on(checkpoint, trainee, saver, config.training_args.batches.seed)
    with open_trackers(config, output) as track:
        loop = _loop(prepared, trainee, saver, position, stop, track)
        if profiled and world.is_main():
            from finetune.train.profile import Profile

            watched = Profile.of_run(output, trainee.objective, position.step, loop.total_steps)
            loop = replace(loop, profile=watched)
        record.note(base=_describe(trainee), plan=_plan(loop))
        record.note(effective=effective(trainee, config, loop.total_steps))
        log.info(
            f"{loop.plan.conversations_per_step} conversations a step, {loop.plan.steps_per_epoch} steps an "
            f"epoch, {loop.total_steps} in all; {_processes(trainee)}"
        )
        if config.evaluation.compare_with_base and position.step == 0:
            record.note(before=_test(prepared, loop.scorer, None))
        _note_retained_before(prepared, loop, record)
        stop.leave_before_training()
        with loop.monitor:
            loop.run()
    check_frozen(trainee.tuned, frozen, trainee.back_end.held)
    _take_best(config, trainee, saver, output)
    record.note(result=_result(loop))
    _note_retained_after(prepared, loop, record)
    record.note(result={"evaluation": _test(prepared, loop.scorer, output / PREDICTIONS_FILE)})
    _compare_memory(prepared, device, record)


def _processor(device: torch.device) -> Processor:
    """The figures of the CPU, the same in all processes; what the libraries take is what they take now."""
    if device.type != "cpu":
        return Processor()
    resident = max(group.gather(resident_bytes()))
    return replace(group.decide(known_processor), library_bytes=resident)


def _note_retained_before(prepared: Prepared, loop: Loop, record: RunRecord) -> None:
    """The base's loss on `retain_file`: taken before the first step, kept by checkpoints."""
    retain, position = prepared.retain, loop.position
    if retain is None:
        return
    if position.step == 0:
        with loop.trainee.objective.of_base():
            position.retain_loss_before = loop.scorer.loss(retain).value
        position.retain_sha256 = retain.sha256
    elif position.retain_sha256 != retain.sha256:
        log.warning(
            "evaluation.retain_file: this run began without it, or with another: its loss before is not known"
        )
        position.retain_loss_before = None
    record.note(
        retain={
            "file": prepared.config.evaluation.retain_file,
            "tokens": int(retain.supervised.sum()),
            "loss_before": position.retain_loss_before,
        }
    )


def _note_retained_after(prepared: Prepared, loop: Loop, record: RunRecord) -> None:
    """The result's loss on `retain_file`, told beside the base's."""
    if prepared.retain is None:
        return
    after, before = loop.scorer.loss(prepared.retain).value, loop.position.retain_loss_before
    record.note(retain={"loss_after": after})
    compared = "" if before is None else f", {before:.4f} before tuning ({after - before:+.4f})"
    log.info(f"retain: loss {after:.4f}{compared}")


def _compare_memory(prepared: Prepared, device: torch.device, record: RunRecord) -> None:
    """Say what the run took at most beside what was estimated, of the process that took most."""
    measured = max(group.gather(peak_memory(device)))
    if prepared.choice is None:
        record.note(memory={"measured_peak_bytes": measured})
        return
    parts = dict(prepared.choice.memory.parts)
    if device.type != "cpu":
        parts.pop("libraries")  # of a GPU, what tensors take is measured
    estimated = sum(parts.values())
    record.note(memory={"estimated_bytes": estimated, "measured_peak_bytes": measured, "parts": parts})
    log.info(f"peak memory {in_words(measured)}, estimated {in_words(estimated)}")


def _smaller(config: Config) -> str:
    """What would need less memory: quantized weights cannot be trained themselves."""
    adapts = config.peft_config is not None or config.model.adapter is not None
    less = "model_config.quantization: nf4" if adapts else "a peft_config"
    return f"set {less}, or training_args.deepspeed"


def _require_known_ids(prepared: Prepared, shape: PreTrainedConfig) -> None:
    """Compare the data with the vocabulary before the weights are loaded."""
    vocabulary = shape.get_text_config().vocab_size
    for examples in _all_examples(prepared):
        require_known_ids(int(examples.input_ids.max()), vocabulary)


def _longest(prepared: Prepared) -> int:
    return max(int(examples.lengths.max()) for examples in _all_examples(prepared))


def _all_examples(prepared: Prepared) -> list[Examples]:
    others = [examples for examples in (prepared.test, prepared.retain) if examples is not None]
    return [prepared.examples, *prepared.validation.values(), *others]


def _go_on(checkpoint: Path | None, trainee: Trainee, saver: Saver, seed: int) -> Position:
    """Load what the checkpoint holds; the random state last, because making all this drew from it."""
    if checkpoint is None:
        seed_apart(seed, step=0)
        return Position()
    state = restore(checkpoint, trainee.back_end.holder, trainee.optimizer, trainee.schedule)
    if state.best is not None and (saver.output / state.best.checkpoint).is_dir():
        saver.best = state.best  # a checkpoint of another folder may tell of one that is not here
    position = Position(**state.counters)
    if _judged_by_other_data(checkpoint, saver):
        log.warning("the validation files are others than before: which checkpoint is best is judged anew")
        saver.best, position.best_metric, position.evaluations_without_improvement = None, None, 0
    saver.latest = checkpoint
    if not restore_rng(state.rng, world.rank()):
        seed_apart(seed, step=state.step)
    log.info(f"going on from {checkpoint}")
    return position


def _judged_by_other_data(checkpoint: Path, saver: Saver) -> bool:
    """Whether the evaluations before this checkpoint were made on other files: figures that do not compare."""
    before = read_manifest(checkpoint).identity.get("validation")
    return before is not None and before != saver.identity.as_dict()["validation"]


def _loop(
    prepared: Prepared,
    trainee: Trainee,
    saver: Saver,
    position: Position,
    stop: StopSignals,
    track: Track | None,
) -> Loop:
    config, total = prepared.config, prepared.total_steps
    # In the single layout no two examples share a micro-batch.
    tokens = None if trainee.layout == "flat" else 1
    plan = prepared.plan(tokens, equal_micro_batches=trainee.back_end.lockstep)
    monitor = Monitor(
        saver.output,
        total_steps=total,
        start_step=position.step,
        logging_steps=_logging_steps(config, total, plan.steps_per_epoch),
        first_step=config.training_args.logging.logging_first_step,
        trackers=track,
    )
    scorer = Scorer(
        config,
        trainee,
        prepared.template,
        plan.tokens_per_micro_batch,
        prepared.validation,
        prepared.validation_samples,
        prepared.retain,
    )
    fit = Fit(plan, auto=config.run.auto_fit)
    return Loop(config, prepared.examples, plan, fit, total, trainee, monitor, scorer, saver, stop, position)


def _logging_steps(config: Config, total: int, steps_per_epoch: int) -> int:
    section = config.training_args.logging
    every = {"no": 0, "epoch": steps_per_epoch, "steps": count_steps(section.logging_steps, total)}
    return every[section.logging_strategy]


def _take_best(config: Config, trainee: Trainee, saver: Saver, output: Path) -> None:
    """Let the model be what it was at its best, where that is asked for."""
    if not config.training_args.saving.load_best_model_at_end or saver.best is None:
        return
    holder = trainee.back_end.holder
    holder.write(check_parameters(read_state(output / saver.best.checkpoint).trainable, holder.parameters()))
    log.info(f"the best is {saver.best.checkpoint}: {saver.best.metric} {saver.best.value:.4g}")


def _describe(trainee: Trainee) -> dict[str, Any]:
    tuned = trainee.tuned
    return {
        "class": type(tuned.base).__name__,
        "model_type": tuned.base.config.model_type,
        "dtype": str(tuned.base_dtype).removeprefix("torch."),
        "compute_dtype": str(tuned.compute_dtype).removeprefix("torch."),
        "parameters": sum(_count(trainee, p) for p in tuned.base.parameters()),
        "trainable": sum(_count(trainee, p) for _, p in tuned.trainable()),
        "tuning": tuned.kind,
        "device": str(trainee.device),
        "back_end": trainee.back_end.name,
        "processes": world.world_size(),
    }


def _processes(trainee: Trainee) -> str:
    count = world.world_size()
    return trainee.back_end.name if count == 1 else f"{count} processes ({trainee.back_end.name})"


def _count(trainee: Trainee, parameter: nn.Parameter) -> int:
    return trainee.back_end.whole(parameter).shape.numel()


def _plan(loop: Loop) -> dict[str, Any]:
    return {
        "conversations_per_step": loop.plan.conversations_per_step,
        "steps": loop.total_steps,
        "steps_per_epoch": loop.plan.steps_per_epoch,
        "tokens_per_micro_batch": loop.plan.tokens_per_micro_batch,
        "layout": loop.trainee.layout,
        "started_at_step": loop.position.step,
    }


def _result(loop: Loop) -> dict[str, Any]:
    best = loop.saver.best
    return {
        "final_loss": loop.monitor.final_loss,
        "steps": loop.position.step,
        "tokens": loop.position.tokens,
        "supervised_tokens": loop.position.supervised_tokens,
        "skipped_steps": loop.position.skipped,
        "stopped_early": loop.stopped_early,
        "best_checkpoint": None if best is None else best.checkpoint,
        "best_metric": None if best is None else best.value,
    }


def _test(prepared: Prepared, scorer: Scorer, predictions: Path | None) -> dict[str, Any] | None:
    """The scores on `test_file`: the loss, and with `predict_with_generate` those of generated answers."""
    if prepared.test is None:
        return None
    loss = scorer.loss(prepared.test)
    if not prepared.test_samples:
        log.info(f"test: loss {loss.value:.4f}, perplexity {loss.perplexity:.2f}")
        return {"loss": loss.value, "perplexity": loss.perplexity, "loss_tokens": loss.tokens}
    report = scorer.predict(prepared.test_samples, predictions).with_loss(loss)
    for line in report.lines():
        log.info(f"test: {line}")
    return report.as_dict()
