"""A run folder such as a finished LoRA run leaves behind."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

STEPS = 300


def metrics_lines(every: int = 1) -> list[dict[str, Any]]:
    """A falling loss with some noise, a warm-up and a decay, an evaluation every 50 steps."""
    lines: list[dict[str, Any]] = []
    for step in (step for step in range(1, STEPS + 1) if step == 1 or step % every == 0):
        noise = math.sin(step * 12.9898) * 43758.5453 % 1 - 0.5
        fall = math.exp(-step / 70)
        warm = min(step / 30, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        lines.append(
            {
                "step": step,
                "epoch": round(step / 120, 4),
                "loss": 0.42 + 2.6 * fall + 0.22 * noise,
                "grad_norm": 0.4 + 1.8 * fall + 0.3 * abs(noise),
                "learning_rate": 5e-4 * warm,
                "tokens": 8000,
                "supervised_tokens": 2100,
                "tokens_per_second": 12000 + 900 * noise,
                "supervised_tokens_per_second": 3100 + 240 * noise,
                "peak_memory_gb": 19.4,
                "seconds": 0.667,
            }
        )
        if step % 50 == 0:
            lines.append({"step": step, "eval_loss": 0.55 + 2.4 * fall + step / 3000, **evaluation(step)})
    return lines


def evaluation(step: int) -> dict[str, float]:
    share = 1 - math.exp(-step / 80)
    return {
        "eval_rouge-1": 14 + 44 * share,
        "eval_rouge-2": 5 + 30 * share,
        "eval_rouge-l": 12 + 42 * share,
        "eval_bleu-4": 0.03 + 0.3 * share,
    }


def run_json() -> dict[str, Any]:
    return {
        "finetune": "0.1.0",
        "command": [
            "finetune",
            "train",
            "data/",
            "glm-4-9b-chat",
            "lora.yaml",
            "--set",
            "training_args.seed=7",
        ],
        "started": "2026-11-22T14:03:11+00:00",
        "finished": "2026-11-22T14:09:43+00:00",
        "status": "done",
        "exit_code": 0,
        "error": None,
        "config": {
            "data_config": {"train_file": "train.jsonl", "val_file": "dev.jsonl", "format": "auto"},
            "max_input_length": 512,
            "model_config": {"dtype": "bfloat16", "quantization": None},
            "peft_config": {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]},
            "training_args": {"learning_rate": 5e-4, "max_steps": 300, "seed": 7, "weight_decay": 0.0},
        },
        "origins": {
            "data_config.train_file": "lora.yaml:2",
            "data_config.val_file": "lora.yaml:3",
            "peft_config": "lora.yaml:20",
            "training_args.learning_rate": "lora.yaml:11",
            "training_args.max_steps": "lora.yaml:10",
            "training_args.seed": "--set",
        },
        "model": "/models/glm-4-9b-chat",
        "data": [
            {
                "split": "train",
                "file": "train.jsonl",
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "rows": 1000,
                "format": "messages",
                "why": "every record has a list `messages`",
                "ledger": {
                    **{"rows": 1000, "trained": 940, "truncated": 25, "too_long": 30, "no_answer": 4},
                    **{"malformed": 1, "turns_left_out": 212},
                },
            },
            {
                "split": "validation",
                "file": "dev.jsonl",
                "rows": 100,
                "format": "messages",
                "why": "every record has a list `messages`",
                "ledger": {
                    "rows": 100,
                    "trained": 100,
                    "truncated": 0,
                    "too_long": 0,
                    "no_answer": 0,
                    "malformed": 0,
                },
            },
        ],
        "base": {"model_type": "glm", "parameters": 9_400_000_000, "trainable": 2_785_280},
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "seed": 7,
        "plan": {"conversations_per_step": 8, "steps": STEPS, "steps_per_epoch": 120, "layout": "flat"},
        "before": scores(14.2, 4.8, 11.9, 0.031, 3.214),
        "result": {
            "final_loss": 0.44,
            "best_checkpoint": "checkpoint-300",
            "best_metric": 0.71,
            "evaluation": scores(57.3, 34.6, 53.1, 0.322, 0.713),
        },
        "environment": {"device": "NVIDIA H200", "cores": 16},
        "preview": [
            {
                "origin": "train.jsonl:3",
                "pieces": [
                    {"text": "[gMASK]<sop><|user|>\n保持健康的三个提示。<|assistant|>", "trained": False},
                    {"text": "\n1. 均衡饮食。\n2. 每天运动。\n3. 充足睡眠。<|user|>", "trained": True},
                    {"text": "\nWhat is the weather in 北京?<|assistant|>", "trained": False},
                    {"text": 'get_weather\n{"city": "北京"}<|observation|>', "trained": True},
                ],
            },
        ],
    }


def scores(one: float, two: float, longest: float, bleu: float, loss: float) -> dict[str, Any]:
    return {
        "scores": {"rouge-1": one, "rouge-2": two, "rouge-l": longest, "bleu-4": bleu},
        "signatures": {"rouge-l": "rouge-chinese 1.0.3, jieba, F × 100", "bleu-4": "nltk, method3, 0 to 1"},
        "tool_calls": {
            "turns": 20,
            "parsed": 20 if one > 50 else 3,
            "name": 19 if one > 50 else 1,
            "arguments": 17,
        },
        "loss": loss,
        "perplexity": math.exp(loss),
    }


def prediction(turn: int, rouge: float, **changed: Any) -> dict[str, Any]:
    return {
        "origin": f"dev.jsonl:{turn + 1}",
        "turn": 1,
        "prompt": f"[gMASK]<sop><|user|>\n第{turn + 1}个问题: 给我讲一个故事。<|assistant|>",
        "reference": "从前有一只小狐狸, 它住在森林里, 每天都去河边喝水。",
        "prediction": "从前有一只狐狸, 住在森林里。",
        "finish": "stop",
        "scores": {"rouge-1": rouge + 4, "rouge-2": rouge / 2, "rouge-l": rouge, "bleu-4": rouge / 200},
        "kind": "text",
        "tool_call": None,
        **changed,
    }


def predictions() -> list[dict[str, Any]]:
    call = {"kind": "tool_call", "tool_call": {"name": True, "arguments": False, "parsed": True}, "scores": {}}
    written = {"reference": 'get_weather\n{"city": "北京"}', "prediction": 'get_weather\n{"city": "Beijing"}'}
    return [
        prediction(0, 12.5, prediction="", finish="length"),
        prediction(1, 0, **call, **written),
        *(prediction(i, 20.0 + 2 * i) for i in range(2, 30)),
    ]


def write(folder: Path, run: Any, metrics: list[Any], answers: list[Any]) -> Path:
    """The three files of a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run, ensure_ascii=False), encoding="utf-8")
    for name, lines in (("metrics.jsonl", metrics), ("predictions.jsonl", answers)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder that no test may change."""
    return write(
        tmp_path_factory.mktemp("untouched") / "output", run_json(), metrics_lines(every=5), predictions()
    )


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A complete run folder to change."""
    return write(tmp_path / "output", run_json(), metrics_lines(every=5), predictions())
