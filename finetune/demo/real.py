"""`finetune demo --real`: a pretrained model learns to call functions, and is scored as the leaderboard scores.

fetch model and data (once) → check → train, asking base and tuned → merge
"""

import json
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.demo import calling
from finetune.demo.base import Run, free_folder, told, write_rows
from finetune.demo.fetch import fetched
from finetune.demo.real_things import BFCL, base_model
from finetune.folder import PREDICTIONS_FILE, RUN_FILE

_LONGEST = 1000
"""Characters of a training task: what keeps the demo to minutes."""
_ASKED = 60
"""So many tasks of the test are asked, from the first."""

_YAML = """\
# What `finetune demo --real` trains with; yours to change and run again.
data_config: {{train_file: train.jsonl, test_file: test.jsonl}}
max_input_length: 900
max_output_length: 128
model_config: {{chat_template: chatml-tools}}  # the checkpoint's own has no tools
peft_config: {{peft_type: LORA, r: 16, lora_alpha: 32, target_modules: all-linear}}
training_args:
  output_dir: {output}
  max_steps: 44
  per_device_train_batch_size: 4
  per_device_eval_batch_size: 20
  learning_rate: 1e-3
  lr_scheduler_type: cosine
  warmup_steps: 4
  logging_steps: 4
  save_steps: 11
  predict_with_generate: true
  generation_config: {{max_new_tokens: 80}}
evaluation: {{compare_with_base: true}}
"""
_MARKS = {
    "parsed": "a call at all, %",
    "name": "right function, %",
    "arguments": "equal to the reference, %",
    "accepted": "accepted by the leaderboard, %",
}


def tell(output: Path, model: Path | None, *, run: Run) -> None:
    """Run the demo into `output`. What a stopped run left is gone on with; a finished one gets a successor.

    model: a transformers folder or a GGUF file in the place of SmolLM2. Raises FetchError, MissingLibraryError.
    """
    base = base_model(model)
    data = write_data(output / "calls-data")
    tuned = free_folder(output / "real", _is_done)
    config = tuned.with_suffix(".yaml")
    if not config.exists():
        config.write_text(_YAML.format(output=tuned), encoding="utf-8")

    step = partial(told, run)
    train = ("--model", f"{base}", "--config", f"{config}")
    step("Look at the data before anything is trained", "check", f"{data / 'train.jsonl'}", *train)
    step("Ask the base, fine-tune, ask again", "train", f"{data}", f"{base}", f"{config}", "yes")
    if not (merged := tuned / "merged").exists():
        step("Merge the adapter into the base", "merge", f"{tuned}", f"{merged}")
    print("\n" + "\n".join([*_example(tuned), *_table(tuned)]), flush=True)


def write_data(data: Path) -> Path:
    """Rows of the leaderboard's questions with calls that it accepts, for training and for the test."""
    data.mkdir(parents=True, exist_ok=True)
    source = fetched(BFCL)
    write_rows(data / "train.jsonl", [task.row() for task in calling.training_tasks(source, _LONGEST)])
    write_rows(
        data / "test.jsonl", [task.row() for task in islice(calling.tasks(source, calling.TEST), _ASKED)]
    )
    return data


def _is_done(tuned: Path) -> bool:
    return (tuned / RUN_FILE).is_file() and _read(tuned / RUN_FILE).get("status") == "done"


def _example(tuned: Path) -> list[str]:
    """The first question that the tuned model answered, and its answer."""
    first = json.loads((tuned / PREDICTIONS_FILE).read_text(encoding="utf-8").partition("\n")[0])
    return ["# One of the questions, and what the tuned model writes", first["prompt"], first["prediction"], ""]


def _table(tuned: Path) -> list[str]:
    run = _read(tuned / RUN_FILE)
    base, after = run["before"]["tool_calls"], run["result"]["evaluation"]["tool_calls"]
    title = f"{after['turns']} questions never seen"
    lines = [f"{title:<32}{'base':>8}{'tuned':>8}"]
    for mark, title in _MARKS.items():
        shares = [100 * calls[mark] / calls["turns"] for calls in (base, after)]
        lines.append(f"{title:<32}{shares[0]:>8.1f}{shares[1]:>8.1f}")
    return [*lines, "", f"run folder: {tuned}   (open {tuned / 'report.html'} in a browser)"]


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
