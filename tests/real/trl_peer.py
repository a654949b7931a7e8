"""TRL's SFTTrainer on given rows, in their order: python -m tests.real.trl_peer JOB, a JSON file; see `Job`."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Job:
    """rows: `input_ids` and `labels` of a conversation a line. output: the tuned adapter, and losses.json."""

    model: str
    adapter: str
    rows: str
    output: str
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


def main(job: Job) -> None:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, job.adapter, is_trainable=True)
    rows = [json.loads(line) for line in Path(job.rows).read_text().splitlines()]
    config = SFTConfig(
        output_dir=job.output,
        max_steps=job.steps,
        per_device_train_batch_size=job.batch,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=job.warmup_steps,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    (Path(job.output) / "losses.json").write_text(json.dumps(losses))
    model.save_pretrained(job.output)


if __name__ == "__main__":
    main(Job(**json.loads(Path(sys.argv[1]).read_text())))
