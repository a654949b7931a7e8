"""LLaMA-Factory, in a venv of its own: python -m scripts.benchmark.llamafactory JOB

It reads the conversations as text and encodes them with its own glm4 template.
"""

import json
import sys
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp

from scripts.benchmark.recorder import Job, Recorder

_DATA_SET = {
    "work": {
        "file_name": "train.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}


def main() -> None:
    job = Job.read(sys.argv[1])
    folder = Path(job.messages).parent
    (folder / "dataset_info.json").write_text(json.dumps(_DATA_SET))
    run_exp(_arguments(job, folder), callbacks=[Recorder(Path(job.output), check=job.check)])


def _arguments(job: Job, folder: Path) -> dict[str, Any]:
    needed: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": job.model,
        "adapter_name_or_path": job.adapter,
        "finetuning_type": "lora",
        "lora_target": "all",
        "dataset_dir": str(folder),
        "dataset": "work",
        "template": "glm4",
        "cutoff_len": job.max_length,
        "disable_shuffling": True,
        "output_dir": job.output,
        "per_device_train_batch_size": job.batch,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "max_steps": job.steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": True,
    }
    exact = {"max_grad_norm": 0.0, "max_steps": 1, "bf16": False} if job.check else {}
    return needed | job.flags | exact


if __name__ == "__main__":
    main()
