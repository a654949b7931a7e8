"""python -m finetune.train.measure: the figures of `estimate.processor`, as JSON, with a run's libraries."""

import json
from dataclasses import asdict

from finetune.estimate.machine import resident_bytes
from finetune.estimate.processor import Processor
from finetune.model.products import measure_slowdown
from finetune.train import session  # noqa: F401  (its libraries are what is measured)

if __name__ == "__main__":
    resident = resident_bytes()
    print(json.dumps(asdict(Processor(measure_slowdown(), resident))))
