"""`finetune demo`: every command of the tool on a model made here, told as it goes.

make and teach a base (once) → check → train → evaluate base and tuned → merge → one chat turn of each
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

from finetune.demo import tasks
from finetune.demo.base import Run, copied, free_folder, taught, told, write_rows

Method = Literal["lora", "p-tuning", "full"]

QUESTION = "What is the capital of Peru?"
SHAPE: dict[str, Any] = {"num_hidden_layers": 3, "initializer_range": 0.05}

_BASE_YAML = """\
# Teaches the demo's base model its facts: all weights, once.
data_config: {train_file: base.jsonl}
training_args:
  output_dir: taught
  max_steps: 200
  per_device_train_batch_size: 48
  learning_rate: 4e-3
  lr_scheduler_type: cosine
  warmup_steps: 20
  weight_decay: 0.01
  logging_steps: 40
  save_strategy: steps
  save_steps: 200
  save_only_model: true
"""
_TUNE_YAML = """\
# What `finetune demo` trains with; yours to change and run again.
data_config: {{train_file: train.jsonl, test_file: test.jsonl}}
max_input_length: 512
max_output_length: 128
{peft}training_args:
  output_dir: {output}
  max_steps: {steps}
  per_device_train_batch_size: 16
  per_device_eval_batch_size: 32
  learning_rate: {rate}
  lr_scheduler_type: cosine
  logging_steps: 20
  save_steps: {steps}
  predict_with_generate: true
  generation_config: {{max_new_tokens: 96}}
evaluation: {{compare_with_base: true}}
"""
_PEFT: dict[Method, str] = {
    "lora": "peft_config: {peft_type: LORA, r: 8, lora_alpha: 32, target_modules: all-linear}\n",
    "p-tuning": "peft_config: {peft_type: PREFIX_TUNING, num_virtual_tokens: 32}\n",
    "full": "",
}
_RATE: dict[Method, str] = {"lora": "6e-3", "p-tuning": "1e-1", "full": "1e-3"}
_STEPS: dict[Method, int] = {"lora": 120, "p-tuning": 160, "full": 80}


def tell(method: Method, output: Path, *, run: Run) -> None:
    """Run the demo into `output`; what is there already is kept, and a new run gets a folder of its own."""
    # Before torch is loaded: so small a model gains little from threads, and loses much where cores are busy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    output.mkdir(parents=True, exist_ok=True)
    base = copied(taught_base(run), output / "base")
    data, config, tuned = _write_inputs(method, output)

    step = partial(told, run)
    step(
        "Look at the data before anything is trained", "check", f"{data / 'train.jsonl'}", "--model", f"{base}"
    )
    step("Fine-tune", "train", f"{data}", f"{base}", f"{config}")
    test = f"{data / 'test.jsonl'}"
    for name, model in (("base", base), ("tuned", tuned)):
        place = f"{tuned / 'eval' / name}"
        step(f"Evaluate the {name} model", "eval", f"{model}", test, "--config", f"{config}", "--output", place)
    if method == "lora":
        step("Merge the adapter into the base", "merge", f"{tuned}", f"{tuned / 'merged'}")
    step("Ask the base", "chat", f"{base}", "--message", QUESTION)
    step("Ask the tuned model", "chat", f"{tuned}", "--message", QUESTION)
    print("\n" + "\n".join(_table(tuned)), flush=True)


def taught_base(run: Run) -> Path:
    """A small GLM-4 that knows the demo's facts, from the user's cache or made and taught now."""
    parts = [json.dumps(SHAPE), json.dumps(tasks.base_rows()), *tasks.corpus()]
    return taught("Make a small GLM-4 and teach it some facts", parts, _BASE_YAML, _prepare, run=run)


def _prepare(work: Path) -> None:
    from finetune.model.tiny import make_tiny

    make_tiny(work / "random", tasks.corpus(), **SHAPE)
    write_rows(work / "base.jsonl", tasks.base_rows())


def _write_inputs(method: Method, output: Path) -> tuple[Path, Path, Path]:
    """The data folder, the YAML and the run folder-to-be, all below `output`."""
    data = output / "data"
    data.mkdir(exist_ok=True)
    write_rows(data / "train.jsonl", tasks.house_rows("train"))
    write_rows(data / "test.jsonl", tasks.house_rows("test"))
    tuned = free_folder(output / method)
    config = tuned.with_suffix(".yaml")
    steps, rate, peft = _STEPS[method], _RATE[method], _PEFT[method]
    config.write_text(_TUNE_YAML.format(output=tuned, steps=steps, rate=rate, peft=peft), encoding="utf-8")
    return data, config, tuned


def _table(tuned: Path) -> list[str]:
    base, after = (_scores(tuned / "eval" / name / "scores.json") for name in ("base", "tuned"))
    lines = [f"{'':<22}{'base':>8}{'tuned':>8}"]
    lines += [f"{name:<22}{base[name]:>8.1f}{after[name]:>8.1f}" for name in after]
    return [*lines, "", f"run folder: {tuned}   (open {tuned / 'report.html'} in a browser)"]


def _scores(path: Path) -> dict[str, float]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    calls = content["tool_calls"]
    scores = {name: value for name, value in content["scores"].items() if name.startswith("rouge")}
    scores["bleu-4 x 100"] = content["bleu-4_x100"]
    return scores | {"tool calls right, %": 100 * calls["arguments"] / calls["turns"]}
