"""What the two peers built on transformers alone have in common: model, adapter, rows and arguments."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from scripts.benchmark.recorder import Job


def load_model(job: Job) -> Any:
    """The base in the dtype it is stored in, with the adapter as peft loads one that is to be trained."""
    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto")
    if job.device == "cuda":
        model = model.to(torch.device("cuda"))
    if job.virtual_tokens is not None:
        prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=job.virtual_tokens)
        return get_peft_model(model, prefix)
    if job.adapter is None:
        return model
    return PeftModel.from_pretrained(model, job.adapter, is_trainable=True)


def load_rows(job: Job) -> Dataset:
    with Path(job.rows).open(encoding="utf-8") as file:
        return Dataset.from_list([json.loads(line) for line in file])


def arguments(job: Job) -> dict[str, Any]:
    """What the measurement needs; everything else is left at the tool's default, but for `job.flags`."""
    needed: dict[str, Any] = {
        "output_dir": job.output,
        "per_device_train_batch_size": job.batch,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "use_cpu": job.device == "cpu",
        "max_steps": job.steps,
    }
    exact = {"max_grad_norm": 0.0, "max_steps": 1, "bf16": False} if job.check else {}
    return needed | job.flags | exact
