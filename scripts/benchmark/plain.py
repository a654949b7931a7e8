"""transformers' own Trainer, with peft: python -m scripts.benchmark.plain JOB"""

import sys
from pathlib import Path

from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from scripts.benchmark.peer import arguments, load_model, load_rows
from scripts.benchmark.recorder import Job, Recorder


def main() -> None:
    job = Job.read(sys.argv[1])
    trainer = Trainer(
        load_model(job),
        TrainingArguments(**arguments(job)),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job.model)),
        train_dataset=load_rows(job),
        callbacks=[Recorder(Path(job.output), check=job.check)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
