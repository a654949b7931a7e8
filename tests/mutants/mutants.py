"""Deliberate bugs, each of which a test must notice."""

from dataclasses import dataclass
from pathlib import Path

SAVES = "tests/faults/test_saves_that_die.py"
REACHES = f"{SAVES}::test_everything_reaches_the_disk_before_its_name_is_published"
APPEAR = "tests/faults/test_files_that_appear.py"
DAMAGE = "tests/faults/test_damaged_checkpoints.py"
CHECKPOINT = "tests/train/test_checkpoint.py"
EXACT_RESUME = f"{CHECKPOINT}::test_a_resumed_training_is_bit_identical_to_the_uninterrupted_one"
RETENTION = f"{CHECKPOINT}::test_retention_keeps_the_newest_and_the_best"
GENERATORS = f"{CHECKPOINT}::test_every_generator_goes_on_where_it_stood"
RESUME = "tests/train/test_resume.py"
RUN = "tests/train/test_run.py"
GATE = "tests/train/test_update.py::test_a_step_is_left_out_where_the_loss_or_the_gradient_is_not_finite"
IDENTITY = "tests/train/test_identity.py"
SAME_STEP = (
    "tests/parallel/test_same_step.py::test_a_step_that_leaves_a_process_without_a_conversation_is_the_same_too"
)
TRAVEL = "tests/parallel/test_checkpoints_travel.py"
THERE_AND_BACK = f"{TRAVEL}::test_saved_by_two_goes_on_with_one_and_back"
TO_THE_BYTE = f"{TRAVEL}::test_two_processes_resume_to_the_byte"
SHARED_SCORES = "tests/parallel/test_evaluation.py::test_predictions_and_scores_are_those_of_one_process"
SHARED_SIGHT = "tests/parallel/test_vision.py::test_every_step_has_the_gradient_of_one_process"
EACH = "tests/parallel/test_what_each_does.py"
FLAT = "tests/model/test_flat_equals_stock.py::test_loss_and_gradients_agree"
GLM4 = "tests/chat/test_glm4.py"
MERGED_SIGHT = "tests/export/test_seeing.py"
SEEN = "tests/infer/test_seeing.py"
SIGHT = "tests/model/test_vision.py"
SIGHT_AS_STOCK = f"{SIGHT}::test_flat_and_single_give_the_loss_and_gradients_of_transformers_own_forward"
PICTURED = "tests/data/test_pictures.py"
TEMPLATES = "tests/adversary/test_templates.py::test_a_template_without_end_is_refused_as_that"
PIXELS = "tests/data/images/test_pixels.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: `old`, which `file` has once, becomes `new`; one of `tests` (files or node ids) must fail."""

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, checkout: Path) -> None:
        path = checkout / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.name}: {self.file} has changed"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


DISK = (
    Mutant(
        "file-not-synced",
        "a file written by us is not brought to the disk",
        "finetune/disk.py",
        "            view = view[os.write(descriptor, view) :]\n        os.fsync(descriptor)\n",
        "            view = view[os.write(descriptor, view) :]\n",
        (REACHES,),
    ),
    Mutant(
        "sealed-not-synced",
        "a file written by a library is not brought to the disk",
        "finetune/disk.py",
        "        os.fsync(file.fileno())\n",
        "",
        (REACHES,),
    ),
    Mutant(
        "folder-not-synced",
        "the folder of a checkpoint is not brought to the disk",
        "finetune/train/checkpoint/save.py",
        "        disk.sync_folder(folder)\n        folder.rename(target)\n",
        "        folder.rename(target)\n",
        (REACHES,),
    ),
    Mutant(
        "rename-not-synced",
        "the name of a new checkpoint is not brought to the disk",
        "finetune/train/checkpoint/save.py",
        "        disk.sync_folder(target.parent)\n",
        "",
        (REACHES,),
    ),
    Mutant(
        "rename-before-manifest",
        "a checkpoint gets its name before it has its manifest",
        "finetune/train/checkpoint/save.py",
        "        disk.write_synced(folder / MANIFEST_FILE, encode_manifest(manifest))\n"
        "        disk.sync_folder(folder)\n        folder.rename(target)\n",
        "        folder.rename(target)\n"
        "        disk.write_synced(target / MANIFEST_FILE, encode_manifest(manifest))\n"
        "        disk.sync_folder(target)\n",
        (f"{SAVES}::test_a_kill_at_any_operation_of_a_save_leaves_a_whole_checkpoint",),
    ),
    Mutant(
        "written-in-place",
        "write_atomically writes over the old file",
        "finetune/disk.py",
        "            write_synced(work / path.name, content)\n            (work / path.name).rename(path)\n",
        "            write_synced(path, content)\n",
        ("tests/test_folder.py::test_a_failed_write_leaves_the_old_file_and_names_bytes_needed_and_free",),
    ),
    Mutant(
        "replaced-not-synced",
        "write_atomically does not bring the new name to the disk",
        "finetune/disk.py",
        "            (work / path.name).rename(path)\n            sync_folder(path.parent)\n",
        "            (work / path.name).rename(path)\n",
        (
            f"{APPEAR}::test_a_file_lies_on_the_disk_before_it_takes_the_old_one_s_place_and_so_does_its_name_after",
        ),
    ),
    Mutant(
        "unpublished-not-synced",
        "the files of a merged model are not brought to the disk",
        "finetune/disk.py",
        "        descriptor = os.open(path, os.O_RDONLY)\n        try:\n            os.fsync(descriptor)\n",
        "        descriptor = os.open(path, os.O_RDONLY)\n        try:\n            pass\n",
        (f"{APPEAR}::test_a_folder_lies_on_the_disk_before_it_gets_its_name_and_so_does_its_name_after",),
    ),
)

CHECKPOINTS = (
    Mutant(
        "sizes-only",
        "verify compares sizes and no hashes",
        "finetune/manifest.py",
        "        if _hash(checkpoint / name) != entry.sha256:\n",
        "        if (checkpoint / name).stat().st_size != entry.bytes:\n",
        (f"{DAMAGE}::test_changed_bytes_are_always_noticed",),
    ),
    Mutant(
        "manifest-trusted",
        "a manifest is not compared with its own hash",
        "finetune/manifest.py",
        '    if content.pop("sha256") != _digest(content):\n',
        '    if not content.pop("sha256"):\n',
        (f"{DAMAGE}::test_a_manifest_edited_by_hand_is_noticed",),
    ),
    Mutant(
        "resume-unverified",
        "a resume takes the highest number without reading it",
        "finetune/train/checkpoint/resume.py",
        "    if not verify(checkpoint).resumable:\n",
        "    if not read_manifest(checkpoint).resumable:\n",
        (f"{RESUME}::test_yes_passes_over_damage_and_puts_it_aside",),
    ),
    Mutant(
        "damage-not-set-aside",
        "a damaged checkpoint is moved away like a whole one",
        "finetune/train/checkpoint/resume.py",
        "[other for other in later if not _set_aside_if_damaged(other)]",
        "later",
        (f"{RESUME}::test_yes_passes_over_damage_and_puts_it_aside",),
    ),
    Mutant(
        "newest-removed",
        "retention removes the newest checkpoint beside the best",
        "finetune/train/checkpoint/retain.py",
        "kept = {whole[0], *best_one,",
        "kept = {*best_one,",
        (RETENTION,),
    ),
    Mutant(
        "best-removed",
        "retention removes the best checkpoint",
        "finetune/train/checkpoint/retain.py",
        "kept = {whole[0], *best_one,",
        "kept = {whole[0],",
        (RETENTION,),
    ),
    Mutant(
        "torch-rng-lost",
        "torch's random state is not restored",
        "finetune/train/checkpoint/rng.py",
        '    torch.set_rng_state(states["cpu"])\n',
        "",
        (f"{EXACT_RESUME}[adamw]",),
    ),
    Mutant(
        "numpy-rng-lost",
        "numpy's random state is not restored",
        "finetune/train/checkpoint/rng.py",
        "    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))\n",
        "",
        (GENERATORS,),
    ),
    Mutant(
        "python-rng-lost",
        "Python's random state is not restored",
        "finetune/train/checkpoint/rng.py",
        "    random.setstate((version, tuple(words), gauss))\n",
        "",
        (GENERATORS,),
    ),
    Mutant(
        "schedule-lost",
        "the schedule begins anew",
        "finetune/train/checkpoint/holder.py",
        "    schedule.load_state_dict(state.schedule)\n",
        "",
        (f"{EXACT_RESUME}[adamw]",),
    ),
    Mutant(
        "step-count-lost",
        "the optimizer counts its steps anew",
        "finetune/train/checkpoint/holder.py",
        "memory[key] = tensor.clone() if on_host",
        "memory[key] = torch.zeros_like(tensor) if on_host",
        (f"{EXACT_RESUME}[adamw]",),
    ),
    Mutant(
        "memory-lost",
        "the optimizer forgets its moments",
        "finetune/train/checkpoint/holder.py",
        "                    self._optimizer.state[self._parameters[name]] = memory\n",
        "                    pass\n",
        (f"{EXACT_RESUME}[adamw]",),
    ),
    Mutant(
        "learning-rate-may-change",
        "a resume under another learning rate is the same training",
        "finetune/train/checkpoint/identity.py",
        '    "training_args.num_train_epochs",\n)',
        '    "training_args.num_train_epochs",\n    "training_args.learning_rate",\n)',
        (f"{IDENTITY}::test_what_touches_the_result_is_named_and_refused",),
    ),
    Mutant(
        "data-may-change",
        "a resume on other data is the same training",
        "finetune/train/checkpoint/identity.py",
        '_only(identity, ("data", "template", "base"))',
        '_only(identity, ("template", "base"))',
        (f"{IDENTITY}::test_every_difference_is_named_at_once",),
    ),
    Mutant(
        "lock-not-taken",
        "the lock of a folder is opened and not taken",
        "finetune/train/checkpoint/lock.py",
        "        _take(descriptor, output)\n",
        "",
        (f"{RESUME}::test_two_runs_cannot_share_a_folder",),
    ),
    Mutant(
        "lock-not-asked-for",
        "a run does not lock its folder",
        "finetune/train/run.py",
        "                held.enter_context(run_lock(output))\n",
        "                output.mkdir(parents=True, exist_ok=True)\n",
        (
            "tests/faults/test_one_run_per_folder.py::test_a_second_run_is_refused_by_name_and_does_not_disturb_the_first",
        ),
    ),
    Mutant(
        "worse-is-best",
        "the worst checkpoint is kept as the best",
        "finetune/train/saver.py",
        "value > self.best.value if self.section.higher_is_best else value < self.best.value",
        "value < self.best.value if self.section.higher_is_best else value > self.best.value",
        (f"{RUN}::test_the_best_checkpoint_is_kept_and_becomes_the_result",),
    ),
)

STEPS = (
    Mutant(
        "mean-of-means",
        "a step is the mean of its micro-batches' means",
        "finetune/train/loop.py",
        "back_end.accumulate(batch, 1 / step.weight,",
        "back_end.accumulate(batch, 1 / max(1, len(batch.targets)) / len(micro_batches),",
        (f"{RUN}::test_the_budget_and_the_layout_do_not_change_a_step[lora]",),
    ),
    Mutant(
        "never-in-training-mode",
        "dropout is never switched on",
        "finetune/train/loop.py",
        "        trainee.objective.train()\n",
        "",
        (f"{RUN}::test_dropout_acts_in_training_and_an_evaluation_does_not_switch_it_off",),
    ),
    Mutant(
        "evaluated-in-training-mode",
        "the loss of an evaluation has dropout",
        "finetune/train/scoring.py",
        "        self.trainee.objective.eval()\n",
        "        self.trainee.objective.train()\n",
        (f"{RUN}::test_the_best_checkpoint_is_kept_and_becomes_the_result",),
    ),
    Mutant(
        "first-gradients-unchecked",
        "nobody looks at the first gradients",
        "finetune/train/loop.py",
        "        if self.position.step == 0:\n            check_first_gradients",
        "        if self.position.step < 0:\n            check_first_gradients",
        (f"{RUN}::test_a_run_that_no_gradient_reaches_is_refused_at_its_first_step",),
    ),
    Mutant(
        "frozen-unchecked",
        "nobody looks at the frozen weights after training",
        "finetune/train/session.py",
        "    check_frozen(trainee.tuned, frozen, trainee.back_end.held)\n",
        "",
        (f"{RUN}::test_a_run_that_changed_a_frozen_weight_fails_and_names_it",),
    ),
    Mutant(
        "no-gate",
        "what is not finite is applied",
        "finetune/train/parallel/back_end.py",
        "    applied = math.isfinite(loss) and math.isfinite(grad_norm)\n",
        "    applied = True\n",
        (f"{RUN}::test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_rows",),
    ),
    Mutant(
        "gate-looks-at-the-loss-only",
        "a gradient that is not finite is applied",
        "finetune/train/parallel/back_end.py",
        "math.isfinite(loss) and math.isfinite(grad_norm)",
        "math.isfinite(loss)",
        (GATE,),
    ),
    Mutant(
        "gate-looks-at-the-gradient-only",
        "a step with a loss that is not finite is applied",
        "finetune/train/parallel/back_end.py",
        "math.isfinite(loss) and math.isfinite(grad_norm)",
        "math.isfinite(grad_norm)",
        (GATE,),
    ),
    Mutant(
        "no-clipping",
        "gradients are not clipped",
        "finetune/train/parallel/back_end.py",
        "        elif max_grad_norm > 0:\n",
        "        elif max_grad_norm > math.inf:\n",
        (
            "tests/train/test_update.py::test_a_gradient_is_shortened_to_the_limit_and_its_norm_is_told_as_it_was",
        ),
    ),
    Mutant(
        "retry-draws-on",
        "a step that is computed anew in smaller micro-batches draws other dropout",
        "finetune/train/loop.py",
        "            restore_rng(drawn)\n",
        "",
        (
            "tests/faults/test_memory_that_runs_out.py::"
            "test_a_run_that_fits_itself_to_memory_ends_as_if_its_batches_had_been_small_from_the_start",
        ),
    ),
    Mutant(
        "half-a-step-kept",
        "a step that is computed anew keeps the gradient of the first attempt",
        "finetune/train/loop.py",
        "            self.trainee.optimizer.zero_grad(set_to_none=True)\n",
        "",
        (
            "tests/faults/test_memory_that_runs_out.py::"
            "test_a_step_that_runs_out_of_memory_half_way_is_computed_anew_from_its_beginning",
        ),
    ),
    Mutant(
        "signal-ignored",
        "a signal is not looked at after the step",
        "finetune/train/loop.py",
        "        if asked is None or self._ended:\n",
        "        if asked is None or not self._ended:\n",
        (f"{RUN}::test_a_signal_saves_and_the_resumed_run_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "metrics-not-cut",
        "metrics.jsonl keeps the lines of steps that are done again",
        "finetune/train/monitor/monitor.py",
        "            truncate_metrics(self._metrics.path, self._start_step)\n",
        "",
        ("tests/train/test_monitor.py::test_a_resumed_run_continues_the_file_where_its_checkpoint_stood",),
    ),
    Mutant(
        "order-of-world-size",
        "the order of the data depends on the number of processes",
        "finetune/data/plan.py",
        "order = order_of(self.conversations, self.seed, epoch)",
        "order = order_of(self.conversations, (self.seed or 0) + self.world_size - 1, epoch)",
        ("tests/data/test_plan.py::test_world_size_and_budget_change_where_never_which",),
    ),
    Mutant(
        "environment-written-down",
        "run.json holds the environment, and with it every token",
        "finetune/train/record.py",
        'return {"platform": platform.platform(),',
        'return {**__import__("os").environ, "platform": platform.platform(),',
        ("tests/faults/test_one_run_per_folder.py::test_secrets_of_the_environment_reach_no_file",),
    ),
    Mutant(
        "secret-shown",
        "the report shows what run.json has of a password",
        "finetune/report/read.py",
        "return record_without_secrets(value), []",
        "return value, []",
        ("tests/report/test_page.py::test_passwords_tokens_and_environment_values_are_not_shown",),
    ),
)

TOKENS = (
    Mutant(
        "one-token-too-few",
        "the first token of an answer is not learnt",
        "finetune/chat/template.py",
        "        mask += [learns] * len(piece)\n",
        "        mask += [False, *[learns] * (len(piece) - 1)][: len(piece)]\n",
        ("tests/data/test_encode.py::test_an_answer_is_learnt_from_its_first_token_to_its_stop",),
    ),
    Mutant(
        "stop-unlearnt",
        "the stop token is not learnt",
        "finetune/chat/template.py",
        "        mask += [learns] * len(piece)\n",
        "        mask += [*[learns] * (len(piece) - 1), False][: len(piece)]\n",
        (f"{GLM4}::test_training_the_last_turn_only_trains_all_of_it_first_token_and_stop_included",),
    ),
    Mutant(
        "one-token-too-many",
        "the last token before an answer is learnt too",
        "finetune/chat/template.py",
        "        mask += [learns] * len(piece)\n",
        "        mask[-1:] = [learns or mask[-1]] if mask else []\n        mask += [learns] * len(piece)\n",
        ("tests/data/test_encode.py::test_an_answer_is_learnt_from_its_first_token_to_its_stop",),
    ),
    Mutant(
        "rows-off-by-one",
        "a token is predicted from itself",
        "finetune/model/batch.py",
        "rows=torch.from_numpy(targets_at - 1),",
        "rows=torch.from_numpy(targets_at),",
        ("tests/model/test_head.py::test_the_first_token_of_a_conversation_is_never_a_target",),
    ),
    Mutant(
        "first-of-a-neighbour",
        "the first token of a conversation is predicted from the one before it",
        "finetune/model/batch.py",
        "    learn[borders[:-1]] = False\n",
        "    learn[0] = False\n",
        ("tests/model/test_head.py::test_the_first_token_of_a_conversation_is_never_a_target",),
    ),
    Mutant(
        "positions-run-on",
        "positions do not begin anew in each conversation of a flat batch",
        "finetune/model/batch.py",
        "np.concatenate([np.arange(length) for length in lengths])",
        "np.arange(sum(lengths))",
        (f"{FLAT}[glm-lora]", f"{FLAT}[glm-prefix]"),
    ),
    Mutant(
        "borders-forgotten",
        "conversations of a flat batch see those before them",
        "finetune/model/attention.py",
        "scaling, dropout) for start, stop in pairwise(borders)\n",
        "scaling, dropout) for start, stop in [(0, borders[-1])]\n",
        (f"{FLAT}[glm-lora]",),
    ),
    Mutant(
        "nothing-weighs-something",
        "a micro-batch of nothing has a gradient",
        "finetune/model/head.py",
        ".sum() * 0.0\n",
        ".sum() * 1e-3\n",
        (
            "tests/model/test_flat_equals_stock.py::test_a_batch_of_nothing_has_loss_zero_and_a_gradient_for_every_weight",
        ),
    ),
)

PROCESSES = (
    Mutant(
        "ddp-averages",
        "DDP: the gradient is the mean over the processes",
        "finetune/train/parallel/replicated.py",
        "scale * world.world_size()",
        "scale",
        (f"{SAME_STEP}[lora-ddp]",),
    ),
    Mutant(
        "fsdp-averages",
        "FSDP2: the gradient is the mean over the processes",
        "finetune/train/parallel/fully_sharded.py",
        "scale * world.world_size()",
        "scale",
        (f"{SAME_STEP}[lora-fsdp2]",),
    ),
    Mutant(
        "zero-averages",
        "ZeRO: the gradient is the mean over the processes",
        "finetune/train/parallel/zero.py",
        "scale * world.world_size()",
        "scale",
        (f"{SAME_STEP}[lora-zero-2]",),
    ),
    Mutant(
        "ddp-never-exchanges",
        "DDP: every process steps by its own gradient",
        "finetune/train/parallel/replicated.py",
        "        if last or not isinstance",
        "        if not isinstance",
        (f"{SAME_STEP}[lora-ddp]",),
    ),
    Mutant(
        "own-share-logged",
        "the loss of a step is that of the first process alone",
        "finetune/train/loop.py",
        "mean = group.total(self._compute_fitting(step)) / step.weight",
        "mean = self._compute_fitting(step) / step.weight",
        (f"{EACH}::test_loss_and_norm_of_a_step_are_told_as_one_process_tells_them",),
    ),
    Mutant(
        "evaluated-twice",
        "every process evaluates all examples, and the sum counts them twice",
        "finetune/train/scoring.py",
        "balance(range(len(examples)), lengths, world.world_size())",
        "balance(range(len(examples)), lengths, 1) * world.world_size()",
        (SHARED_SCORES,),
    ),
    Mutant(
        "padding-kept",
        "the answer to a prompt that only keeps step takes the place of another",
        "finetune/train/parallel/shared_engine.py",
        "[: len(mine)]",
        "[-len(mine) :]",
        (SHARED_SCORES,),
    ),
    Mutant(
        "everybody-answers",
        "every process answers every prompt",
        "finetune/train/parallel/shared_engine.py",
        "order[world.rank() :: world.world_size()]",
        "order[:]",
        (f"{EACH}::test_every_prompt_is_answered_by_one_process_and_all_get_the_answer",),
    ),
    Mutant(
        "rank-rng-lost",
        "every process goes on with the random state of the first",
        "finetune/train/session.py",
        "restore_rng(state.rng, world.rank())",
        "restore_rng(state.rng)",
        (f"{TO_THE_BYTE}[ddp]",),
    ),
    Mutant(
        "ranks-draw-alike",
        "all processes draw the same dropout",
        "finetune/train/session.py",
        "        seed_apart(seed, step=0)\n",
        "",
        (f"{EACH}::test_each_process_draws_numbers_of_its_own",),
    ),
    Mutant(
        "fsdp-memory-lost",
        "FSDP2: the optimizer forgets its moments",
        "finetune/train/parallel/fully_sharded.py",
        "                    self._optimizer.state[parameter] = memory\n",
        "                    pass\n",
        (f"{THERE_AND_BACK}[fsdp2]",),
    ),
    Mutant(
        "zero-memory-lost",
        "ZeRO: the optimizer forgets its moments",
        "finetune/train/parallel/zero.py",
        '                if key != "step":\n',
        '                if key == "":\n',
        (f"{THERE_AND_BACK}[zero-2]",),
    ),
    Mutant(
        "zero-step-count-lost",
        "ZeRO: the optimizer counts its steps anew",
        "finetune/train/parallel/zero.py",
        'memory["step"] = put_together(example["step"]).clone()',
        'memory["step"] = torch.zeros_like(put_together(example["step"]))',
        (f"{THERE_AND_BACK}[zero-2]",),
    ),
    Mutant(
        "zero-no-gate",
        "ZeRO: a step whose loss is not finite is applied",
        "finetune/train/parallel/zero.py",
        "            self._refuse_gradients()\n",
        "            pass\n",
        ("tests/parallel/test_gate.py",),
    ),
    Mutant(
        "signal-of-one",
        "a signal to another process than the first is not heard",
        "finetune/train/loop.py",
        "        asked = group.anywhere(self.stop.requested)\n",
        "        asked = group.gather(self.stop.requested)[0]\n",
        ("tests/parallel/test_deaths.py::test_a_signal_to_one_process_stops_all_after_the_same_step[ddp-15]",),
    ),
)

ARITHMETIC = (
    Mutant(
        "loss-without-its-factor",
        "the gradient of the loss is that of the sum, whatever it is divided by",
        "finetune/model/cross_entropy.py",
        "            None if hidden is None else hidden.mul_(factor),\n",
        "            hidden,\n",
        ("tests/model/test_cross_entropy.py",),
    ),
    Mutant(
        "head-taken-for-direct",
        "caps and scales of the logits are left out of the loss",
        "finetune/model/head.py",
        "    return len(seen) == 1 and torch.equal(seen[0], logits)\n",
        "    return True\n",
        ("tests/model/test_head.py",),
    ),
    Mutant(
        "lora-without-its-scaling",
        "the gradient of LoRA's B is not scaled",
        "finetune/model/low_rank.py",
        ".to(ctx.wide) * ctx.scaling\n",
        ".to(ctx.wide)\n",
        ("tests/model/test_low_rank.py",),
    ),
    Mutant(
        "bias-that-learns-forgotten",
        "a layer whose own bias learns is computed as if it did not",
        "finetune/model/low_rank.py",
        "            and not any(parameter.requires_grad for parameter in base.parameters())\n",
        "",
        ("tests/model/test_low_rank.py", "tests/train/test_methods.py"),
    ),
    Mutant(
        "block-sees-ahead",
        "a query of a block sees the later keys of the block",
        "finetune/model/blockwise.py",
        "    own.masked_fill_(later[:, None], -torch.inf)\n",
        "",
        ("tests/model/test_blockwise.py",),
    ),
)

PICTURES = (
    Mutant(
        "image-token-too-few",
        "a picture has one image token less than it has features",
        "finetune/data/encode.py",
        "[sight.tokens(one.width, one.height) for one in pictures]\n",
        "[sight.tokens(one.width, one.height) - 1 for one in pictures]\n",
        (f"{PICTURED}::test_a_picture_stands_where_the_record_puts_it",),
    ),
    Mutant(
        "cut-turns-leave-pictures",
        "truncation keeps the pictures of the turns that it drops",
        "finetune/data/encode.py",
        "    tail = rendered_from(starts[first])\n",
        "    tail = replace(rendered_from(starts[first]), pictures=rendered_from(body).pictures)\n",
        (f"{PICTURED}::test_truncation_takes_whole_turns_with_their_pictures",),
    ),
    Mutant(
        "old-pictures-trusted",
        "a cache is used whatever became of its pictures",
        "finetune/data/album.py",
        "        return all(_stamp(self[row].path) == tuple(self.stamps[row].tolist())",
        "        return all(True",
        (f"{PICTURED}::test_a_changed_picture_is_encoded_again_and_an_unchanged_one_is_not",),
    ),
    Mutant(
        "every-file-allowed",
        "a record may have any file of the computer read as an image",
        "finetune/data/images/access.py",
        "    if any(path.is_relative_to(_real(folder.absolute())) for folder in (beside, *access.roots)):\n",
        "    if True:\n",
        ("tests/data/images/test_bad_images.py",),
    ),
    Mutant(
        "lying-pictures",
        "a picture is not turned as its EXIF says",
        "finetune/data/images/pixels.py",
        "    return image.transpose(_TURNS[upright]) if upright in _TURNS else image\n",
        "    return image\n",
        (f"{PIXELS}::test_a_picture_stands_upright",),
    ),
    Mutant(
        "clear-is-black",
        "what is transparent in a picture is not put on white",
        "finetune/data/images/pixels.py",
        "    if image.has_transparency_data:\n",
        "    if False:\n",
        (f"{PIXELS}::test_a_picture_shows_what_a_person_sees",),
    ),
    Mutant(
        "pictures-sorted",
        "the patches of a micro-batch are not in the order of its image tokens",
        "finetune/model/vision.py",
        "        asked = [self._ask(picture) for picture in pictures]\n",
        "        asked = [self._ask(picture) for picture in sorted(pictures, key=lambda one: one.sha256)]\n",
        (f"{SIGHT_AS_STOCK}[glm4v-full]",),
    ),
    Mutant(
        "pictures-never-let-go",
        "patches are kept whatever the budget",
        "finetune/model/vision.py",
        "        while self._held > self.budget:\n",
        "        while False:\n",
        (f"{SIGHT}::test_patches_are_kept_within_the_budget_and_the_least_lately_used_go_first",),
    ),
    Mutant(
        "positions-of-the-row",
        "the positions of pictures are found for the whole row, not for each conversation",
        "finetune/model/batch.py",
        "    positions = [vision.positions(ids, its) for ids, its in zip(conversations, own, strict=True)]\n",
        "    positions = [vision.positions(batch.input_ids[0], grids)]\n",
        (f"{SIGHT}::test_the_positions_of_a_conversation_do_not_depend_on_its_neighbours",),
    ),
    Mutant(
        "blank-not-looked-at",
        "a tower has no part in a batch without pictures",
        "finetune/model/head.py",
        "        if self.looks_always is None or batch.patches is not None:\n",
        "        if True:\n",
        (f"{SIGHT}::test_a_batch_without_pictures_reaches_every_weight_of_a_tower_that_learns",),
    ),
    Mutant(
        "learning-tower-not-waited-for",
        "DDP: a process without a picture does not keep step with a tower that learns elsewhere",
        "finetune/train/trainee.py",
        "    looks_always = sharing.weights or tower_learns(tuned.trainable())\n",
        "    looks_always = sharing.weights\n",
        (f"{SHARED_SIGHT}[lora everywhere-ddp]",),
    ),
    Mutant(
        "tower-flat",
        "the tower computes attention as the language model does",
        "finetune/model/attention.py",
        '    model.set_attn_implementation(name if whole else {"text_config": name})\n',
        "    model.set_attn_implementation(name)\n",
        (f"{SIGHT_AS_STOCK}[glm4v-full]",),
    ),
    Mutant(
        "adapters-in-the-tower",
        "adapters reach the tower though `freeze` does not say so",
        "finetune/config/modules.py",
        '    parts = (() if exact else ("vision",)) if freeze is None else freeze\n',
        "    parts = () if freeze is None else freeze\n",
        (f"{SIGHT}::test_adapters_go_where_freeze_lets_them",),
    ),
    Mutant(
        "tower-not-merged",
        "a merge leaves out the tower and the projector",
        "finetune/export/weights.py",
        """        for layer in [m for m in model.modules() if isinstance(m, BaseTunerLayer)]:
            _merge_layer(layer, dtypes, target)
        with warnings.catch_warnings():
            # Said by peft of what is meant so: the layers are merged already, the embeddings untied.
            warnings.simplefilter("ignore")
            merged = model.merge_and_unload()
""",
        """        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
        for name, layer in layers:
            if ".visual." not in name:
                _merge_layer(layer, dtypes, target)
        merged = model.unload()
""",
        (f"{MERGED_SIGHT}::test_tower_projector_and_language_model_are_merged[glm4v]",),
    ),
    Mutant(
        "proof-without-pictures",
        "a merged model that sees is asked about text alone",
        "finetune/export/prompts.py",
        "    if template.dialect.image_token is not None:\n",
        "    if False:\n",
        (f"{MERGED_SIGHT}::test_a_merge_that_forgets_the_tower_is_noticed",),
    ),
    Mutant(
        "proof-in-a-row",
        "the proof of a merge places a picture's tokens one behind another",
        "finetune/export/proof.py",
        "        position_ids=vision.positions(ids, grids)[:, None].to(device),\n",
        "        position_ids=torch.arange(len(ids), device=device)[None],\n",
        (f"{MERGED_SIGHT}::test_prompts_with_pictures_are_asked_as_the_model_itself_places_them",),
    ),
    Mutant(
        "answer-counts-tokens",
        "an answer stands as far from its question as the pictures there have tokens",
        "finetune/infer/decode.py",
        "        following = int(self.positions.max()) + len(self.written)\n",
        "        following = len(self.prompt) + len(self.written) - 1\n",
        (f"{SEEN}::test_every_loop_writes_the_tokens_of_the_models_own_forward[glm4v-none]",),
    ),
    Mutant(
        "written-image-token",
        "an image token that was written is taken for a place of another row's picture",
        "finetune/infer/decode.py",
        "            if self.waiting[0].pictures and self._image_token_was_written():\n",
        "            if False:\n",
        (f"{SEEN}::test_an_image_token_that_is_written_is_no_picture_where_another_row_begins_with_one",),
    ),
    Mutant(
        "old-positions-kept",
        "a stream goes on at the positions of the pictures asked about before",
        "finetune/infer/padded.py",
        "        cast(Any, self.base.model).rope_deltas = None\n",
        "",
        (f"{SEEN}::test_what_was_asked_before_does_not_matter",),
    ),
    Mutant(
        "image-of-the-line-lost",
        "a picture that was named on the command line is not shown",
        "finetune/serve/terminal.py",
        "    shown = [_picture(engine, path)[0] for path in images]\n",
        "    shown: list[Image] = []\n",
        ("tests/serve/test_pictures.py::test_the_command_shows_a_picture_with_a_message",),
    ),
)

STRANGERS = (
    Mutant(
        "turns-for-nothing",
        "a turn of a chat template's loop costs nothing",
        "finetune/chat/budget.py",
        "        self._steps -= 1\n",
        "",
        (f"{TEMPLATES}[loops in loops over a text]",),
    ),
    Mutant(
        "joined-for-nothing",
        "a chat template's ~ costs nothing",
        "finetune/chat/budget.py",
        "    if (length := sum(map(len, texts))) > _SHORT:\n",
        "    if (length := 0) > _SHORT:\n",
        (f"{TEMPLATES}[text doubled by ~]",),
    ),
    Mutant(
        "depth-not-looked-at",
        "JSON of any depth that Python reads is taken",
        "finetune/plain_json.py",
        "and _depth(value) > DEEPEST:",
        "and False:",
        ("tests/adversary/test_json.py::test_what_lies_at_the_limits_is_read",),
    ),
)

MUTANTS = (*ARITHMETIC, *DISK, *CHECKPOINTS, *STEPS, *TOKENS, *PROCESSES, *PICTURES, *STRANGERS)
