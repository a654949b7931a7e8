"""ms-swift, in a venv of its own: python -m scripts.benchmark.swift_sft JOB

It reads the conversations as text and encodes them with its own glm4 template.
"""

import sys
from pathlib import Path
from typing import Any

from swift import sft_main
from swift.arguments import SftArguments
from swift.callbacks import callbacks_map

from scripts.benchmark.recorder import Job, Recorder


def main() -> None:
    job = Job.read(sys.argv[1])
    callbacks_map["recorder"] = lambda args, trainer: Recorder(Path(job.output), check=job.check)
    sft_main(SftArguments(**_arguments(job)))


def _arguments(job: Job) -> dict[str, Any]:
    needed: dict[str, Any] = {
        "model": job.model,
        "model_type": "glm4",
        "template": "chatglm4",  # as glm4, but for [gMASK]<sop>, which the tokenizer adds
        "adapters": [job.adapter],
        "dataset": [job.messages],
        "split_dataset_ratio": 0.0,
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "max_length": job.max_length,
        "output_dir": job.output,
        "add_version": False,
        "per_device_train_batch_size": job.batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "max_steps": job.steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "torch_dtype": "bfloat16",
        "callbacks": ["recorder"],
    }
    exact = {"max_grad_norm": 0.0, "max_steps": 1, "torch_dtype": "float32"} if job.check else {}
    return needed | job.flags | exact


if __name__ == "__main__":
    main()
