"""The README.md of an exported model: where it comes from, how to use it, and what was measured.

People publish such folders: only names stand in it, never paths of the machine it was made on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.folder import Source, read_run
from finetune.printing import one_line, printable
from finetune.redaction import redacted

_READING = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModelForCausalLM.from_pretrained("NAME")
messages = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""

_SEEING = """from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
processor = AutoImageProcessor.from_pretrained("NAME", backend="pil")
model = AutoModelForImageTextToText.from_pretrained("NAME")

picture = processor(images=[Image.open("picture.png").convert("RGB")], return_tensors="pt")
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}]
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
mark = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
tokens = int(picture["image_grid_thw"].prod()) // processor.merge_size**2  # that the picture takes
inputs = tokenizer(text.replace(mark, mark * tokens), add_special_tokens=False, return_tensors="pt")
is_image = (inputs["input_ids"] == model.config.image_token_id).int()

answer = model.generate(**inputs, **picture, mm_token_type_ids=is_image, max_new_tokens=256)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""


def card(
    name: str, source: Source, adapter: Mapping[str, Any], proof: Sequence[str], *, sees: bool = False
) -> str:
    """Markdown with the Hub's front matter.

    adapter: adapter_config.json. proof: its figures. sees: the model takes pictures.
    """
    run = read_run(source.run) if source.run else {}
    blocks = [
        _front_matter(source, adapter, "image-text-to-text" if sees else "text-generation"),
        f"# {one_line(name)}",
        f"{_base_name(source)} with {_describe(adapter)} merged into its weights, by finetune {__version__}.",
        _usage(one_line(name), _SEEING if sees else _READING),
        *_training(run),
        _section("Proof of the merge", proof),
    ]
    return printable(redacted("\n\n".join(blocks))) + "\n"


def _front_matter(source: Source, adapter: Mapping[str, Any], task: str) -> str:
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    if isinstance(source.model, str):  # the Hub knows ids, not folders
        fields |= {"base_model": source.model, "base_model_relation": "finetune"}
    fields["tags"] = ["finetune", str(adapter.get("peft_type", "")).lower()]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _base_name(source: Source) -> str:
    return one_line(source.model if isinstance(source.model, str) else source.model.absolute().name)


def _describe(adapter: Mapping[str, Any]) -> str:
    """`a LORA adapter (r 8, lora_alpha 16, on k_proj, q_proj)`."""
    shown = [
        f"{key} {adapter[key]}" for key in ("r", "lora_alpha", "use_rslora", "use_dora") if adapter.get(key)
    ]
    targets = adapter.get("target_modules") or []
    shown.append("on " + (targets if isinstance(targets, str) else ", ".join(sorted(targets))))
    kind = adapter.get("peft_type")
    return f"{'an' if str(kind)[:1] in 'AI' else 'a'} {kind} adapter ({', '.join(shown)})"


def _usage(name: str, code: str) -> str:
    return f"""## Use

```python
{code.replace("NAME", name)}
```

`generation_config.json` holds the tokens that end a turn. `finetune chat {name}` talks to it too."""


def _training(run: Mapping[str, Any]) -> Iterator[str]:
    """The run in a few lines, as far as run.json tells it."""
    lines = [*_data_lines(run), *_setting_lines(run), *_score_lines(run)]
    if lines:
        yield _section("Training", lines)


def _data_lines(run: Mapping[str, Any]) -> Iterator[str]:
    for entry in run.get("data") or ():
        yield f"{entry['split']}: {Path(entry['file']).name}, {entry['rows']} records"


def _setting_lines(run: Mapping[str, Any]) -> Iterator[str]:
    config = run.get("config") or {}
    settings = config.get("training_args") or {}
    names = ("learning_rate", "lr_scheduler_type", "num_train_epochs", "max_steps", "seed")
    shown = [f"{name} {settings[name]}" for name in names if settings.get(name) is not None]
    if shown:
        yield ", ".join(shown)
    plan = run.get("plan") or {}
    if plan.get("conversations_per_step"):
        yield f"{plan['conversations_per_step']} conversations per step, {plan.get('steps')} steps"
    if options := (config.get("model_config") or {}).get("chat_template_kwargs"):
        spelt = ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in options.items())
        yield f"chat_template.jinja has {spelt} unless a request says otherwise"


def _score_lines(run: Mapping[str, Any]) -> Iterator[str]:
    result = run.get("result") or {}
    before, after = _scores(run.get("before")), _scores(result.get("evaluation"))
    if result.get("final_loss") is not None:
        yield f"final loss {result['final_loss']:.4f}"
    for name, score in after.items():
        yield f"{name}: {score:.4g}" + (f" (base: {before[name]:.4g})" if name in before else "")


def _scores(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    """The scores of an evaluation in run.json, and its loss and perplexity where they were taken."""
    found = evaluation or {}
    losses = {name: found[name] for name in ("loss", "perplexity") if found.get(name) is not None}
    return {**found.get("scores", {}), **losses}


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {one_line(line)}" for line in lines)])
