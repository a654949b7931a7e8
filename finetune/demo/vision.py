"""`finetune demo --vision`: a small GLM-4.1V learns to count what is in pictures, and proves that it looks.

make and teach a base (once) → check → train → evaluate base, tuned, and tuned on swapped pictures → chat
"""

import os
from functools import partial
from hashlib import sha256
from pathlib import Path

from finetune.demo import looking
from finetune.demo.base import Run, copied, free_folder, taught, told, write_rows
from finetune.demo.pictures import SCENES, draw

_PICTURE = "test-0011.png"
"""Shows four things."""

_BASE_YAML = """\
# Teaches the demo's base model to name one thing in a picture: all weights, once.
data_config: {train_file: base.jsonl}
training_args:
  output_dir: taught
  max_steps: 300
  per_device_train_batch_size: 32
  learning_rate: 1e-3
  lr_scheduler_type: cosine
  warmup_steps: 10
  weight_decay: 0.01
  logging_steps: 50
  save_strategy: steps
  save_steps: 300
  save_only_model: true
"""
_TUNE_YAML = """\
# What `finetune demo --vision` trains with; yours to change and run again.
data_config: {{train_file: train.jsonl, test_file: test.jsonl}}
max_input_length: 256
max_output_length: 64
model_config: {{freeze: []}}  # adapters for the eyes, too
peft_config: {{peft_type: LORA, r: 16, lora_alpha: 32, target_modules: all-linear}}
training_args:
  output_dir: {output}
  max_steps: 260
  per_device_train_batch_size: 32
  per_device_eval_batch_size: 32
  learning_rate: 5e-3
  lr_scheduler_type: cosine
  warmup_steps: 10
  logging_steps: 20
  save_steps: 260
  generation_config: {{max_new_tokens: 24}}
"""


def tell(output: Path, *, run: Run) -> None:
    """Run the demo into `output`; what is there already is kept, and a new run gets a folder of its own."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: as for the demo of text
    data = output / "pictures-data"
    data.mkdir(parents=True, exist_ok=True)
    base = copied(_taught_base(run), output / "base-vision")
    tuned = free_folder(output / "vision")
    config = _write_inputs(data, tuned)

    step = partial(told, run)
    train, test, swapped = (f"{data / name}.jsonl" for name in ("train", "test", "swapped"))
    step("Look at the data before anything is trained", "check", train, "--model", f"{base}")
    step("Fine-tune", "train", f"{data}", f"{base}", f"{config}")
    asked = {"base": (base, test), "tuned": (tuned, test), "swapped": (tuned, swapped)}
    titles = {
        "base": "Ask the base about pictures of what nobody counted for it",
        "tuned": "Ask the tuned model the same",
        "swapped": "Swap the pictures: a model that looks must now be wrong",
    }
    for name, (model, rows) in asked.items():
        place = f"{tuned / 'eval' / name}"
        step(titles[name], "eval", f"{model}", rows, "--config", f"{config}", "--output", place)
    picture = f"{data / looking.FOLDER / _PICTURE}"
    for name, model in (("base", base), ("tuned model", tuned)):
        step(
            f"Show the {name} a picture", "chat", f"{model}", "--image", picture, "--message", looking.QUESTION
        )
    print("\n" + "\n".join(_table(tuned)), flush=True)


def _taught_base(run: Run) -> Path:
    """A small GLM-4.1V that names one thing in a picture, from the user's cache or made and taught now."""
    pixels = sha256(b"".join(draw(scene, "").tobytes() for scene in SCENES)).hexdigest()
    parts = [repr(looking.base_rows()), *looking.corpus(), pixels]
    what = "Make a small GLM-4.1V and teach it to name one thing in a picture"
    return taught(what, parts, _BASE_YAML, _prepare, run=run)


def _prepare(work: Path) -> None:
    from finetune.model.tiny_vision import make_tiny_vision

    make_tiny_vision(work / "random", looking.corpus())
    write_rows(work / "base.jsonl", looking.drawn(looking.base_rows(), work, "base"))


def _write_inputs(data: Path, tuned: Path) -> Path:
    """The rows and their pictures into the data folder; the YAML, which is returned, beside the run-to-be."""
    test = looking.drawn(looking.house_rows("test"), data, "test")
    write_rows(data / "train.jsonl", looking.drawn(looking.house_rows("train"), data, "train"))
    write_rows(data / "test.jsonl", test)
    write_rows(data / "swapped.jsonl", looking.swapped(test))
    config = tuned.with_suffix(".yaml")
    config.write_text(_TUNE_YAML.format(output=tuned), encoding="utf-8")
    return config


def _table(tuned: Path) -> list[str]:
    names = ("base", "tuned", "swapped")
    right = [100 * looking.share_right(tuned / "eval" / name / "predictions.jsonl") for name in names]
    lines = [f"{'':<22}{'base':>8}{'tuned':>8}{'tuned, pictures swapped':>26}"]
    lines.append(f"{'right to the letter, %':<22}{right[0]:>8.1f}{right[1]:>8.1f}{right[2]:>26.1f}")
    return [*lines, "", f"run folder: {tuned}   (open {tuned / 'report.html'} in a browser)"]
