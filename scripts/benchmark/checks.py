"""Before anything is timed: every peer computes one step in float32, and we compute the same conversations."""

import json
from collections.abc import Sequence

from scripts.benchmark.equality import compare
from scripts.benchmark.harness import tail, watched
from scripts.benchmark.recorder import GRADIENTS_FILE, LOG_FILE
from scripts.benchmark.tools import Tool
from scripts.benchmark.work import Work


def check_all(peers: Sequence[Tool], work: Work) -> dict[str, str]:
    """What is to be said of each peer: yes, or what differs and by how much."""
    if not work.exact_model.exists():
        print("not checked: the model is too large in float32; --shape 57m is not", flush=True)
        return {}
    return {tool.name: _check(tool, work) for tool in peers}


def _check(tool: Tool, work: Work) -> str:
    output = work.folder / "checks" / tool.module / tool.name.replace(" ", "-")
    output.parent.mkdir(parents=True, exist_ok=True)
    command = tool.command(work, output, check=True)
    log = output.with_suffix(".log")
    _, status, _ = watched(command, tool.steps_file(output), log)
    if status != 0 or not (output / GRADIENTS_FILE).exists():
        print(f"{tool.name}: not checked: exit {status}\n{tail(log)}", flush=True)
        return "failed"
    agreement = compare(work, output, json.loads((output / LOG_FILE).read_text())["loss"])
    print(f"{tool.name} {agreement.words()}", flush=True)
    return "yes" if agreement.agrees else f"no: {max(agreement.loss, agreement.gradients):.0e}"
