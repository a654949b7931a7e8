"""A model card tells what a run did, in names that may be published."""

import json
from pathlib import Path

from finetune.export.card import card
from finetune.export.merge import _notes
from finetune.folder import Source

ADAPTER = {
    "peft_type": "LORA",
    "r": 16,
    "lora_alpha": 32,
    "use_dora": True,
    "target_modules": ["v_proj", "q_proj"],
}
RUN = {
    "config": {
        "training_args": {"learning_rate": 5e-4, "lr_scheduler_type": "cosine", "max_steps": 300, "seed": 42},
        "model_config": {"quantization": "nf4", "chat_template_kwargs": {"enable_thinking": False}},
    },
    "data": [{"split": "train", "file": "/home/somebody/secret/train.jsonl", "rows": 1200}],
    "plan": {"conversations_per_step": 8, "steps": 300},
    "result": {
        "final_loss": 0.41239,
        "evaluation": {"scores": {"rouge-l": 71.25, "bleu-4": 0.5}, "loss": 0.5, "loss_tokens": 900},
    },
    "before": {"scores": {"rouge-l": 12.5}, "loss": 4.0},
}


def source(tmp_path: Path, run: dict[str, object] | None) -> Source:
    if run is not None:
        (tmp_path / "run.json").write_text(json.dumps(run))
    return Source("owner/base", tmp_path, tmp_path if run is not None else None, tmp_path, "an adapter")


def test_the_front_matter_is_yaml_that_names_the_base(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    front = card("mine", source(tmp_path, None), ADAPTER, []).split("---")[1]
    assert YAML(typ="safe").load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "owner/base",
        "base_model_relation": "finetune",
        "tags": ["finetune", "lora"],
    }


def test_a_run_is_told_in_data_settings_and_scores(tmp_path: Path) -> None:
    text = card("mine", source(tmp_path, RUN), ADAPTER, ["error 1e-7"])
    assert (
        "owner/base with a LORA adapter (r 16, lora_alpha 32, use_dora True, on q_proj, v_proj) merged" in text
    )
    for line in (
        "- train: train.jsonl, 1200 records",
        "- learning_rate 0.0005, lr_scheduler_type cosine, max_steps 300, seed 42",
        "- 8 conversations per step, 300 steps",
        "- chat_template.jinja has enable_thinking false unless a request says otherwise",
        "- final loss 0.4124",
        "- rouge-l: 71.25 (base: 12.5)",
        "- bleu-4: 0.5",
        "- loss: 0.5 (base: 4)",
        "- error 1e-7",
    ):
        assert line in text.splitlines()
    assert "loss_tokens" not in text


def test_no_path_of_this_machine_is_told(tmp_path: Path) -> None:
    text = card("mine", source(tmp_path, RUN), ADAPTER, [])
    assert "/home/" not in text and str(tmp_path) not in text


def test_an_adapter_without_a_run_has_no_training_section(tmp_path: Path) -> None:
    assert "## Training" not in card("mine", source(tmp_path, None), ADAPTER, [])


def test_a_run_that_never_finished_is_told_as_far_as_it_went(tmp_path: Path) -> None:
    text = card("mine", source(tmp_path, {"config": RUN["config"], "result": None}), ADAPTER, [])
    assert "final loss" not in text and "learning_rate 0.0005" in text


def test_a_qlora_merge_says_that_the_base_is_the_full_one(tmp_path: Path) -> None:
    notes = _notes(source(tmp_path, RUN))
    assert notes == (
        "merged an adapter",
        "trained on a base quantized to nf4; merged into the full-precision base",
    )
