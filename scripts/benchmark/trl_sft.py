"""TRL's SFTTrainer: python -m scripts.benchmark.trl_sft JOB"""

import sys
from pathlib import Path

from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from scripts.benchmark.peer import arguments, load_model, load_rows
from scripts.benchmark.recorder import Job, Recorder


def main() -> None:
    job = Job.read(sys.argv[1])
    trainer = SFTTrainer(
        load_model(job),
        SFTConfig(max_length=job.max_length, **arguments(job)),
        train_dataset=load_rows(job),
        processing_class=AutoTokenizer.from_pretrained(job.model),
        callbacks=[Recorder(Path(job.output), check=job.check)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
