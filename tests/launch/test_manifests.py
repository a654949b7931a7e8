"""The YAML job files, read as their systems read them: YAML 1.1, then a shell or Kubernetes' own variables."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.launch.job import Job
from finetune.launch.story import page
from tests.launch.conftest import NAMES, Launch

TORCHRUN = "#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
OPTIONS = [
    "--max-restarts=3",
    "--shutdown-timeout=270",
    "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    "--tee=3",
    "--local-ranks-filter=0",
]


def safe(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name


def arguments(name: str) -> list[str]:
    return ["-m", "finetune", "train", safe(name), safe(name), safe(f"{name}.yaml"), "yes"]


def skypilot_argv(task: dict[str, Any], place: Path, node: int) -> list[str]:
    """What torchrun gets on one node of a SkyPilot task."""
    (place / "bin").mkdir(exist_ok=True)
    program = place / "bin" / "torchrun"
    program.write_text(TORCHRUN)
    program.chmod(0o755)
    environment = {
        **os.environ,
        **task["envs"],
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": str(node),
        "SKYPILOT_NUM_GPUS_PER_NODE": "4",
    }
    script = ["bash", "-c", task["run"]]
    said = subprocess.run(script, cwd=place, env=environment, capture_output=True, text=True, check=True)
    return json.loads(said.stdout)


def expanded(word: str, variables: dict[str, str]) -> str:
    """A word of a container's command as Kubernetes passes it on: `$$` is `$`, `$(NAME)` a variable."""
    return re.sub(
        r"\$\$|\$\((.*?)\)",
        lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]),
        word,
        flags=re.DOTALL,
    )


def test_a_skypilot_task_asks_for_its_machines(launch: Launch) -> None:
    task = yaml.safe_load(page(launch("skypilot", run_name="First try", nodes=3, gpus=4)))
    assert (task["name"], task["num_nodes"]) == ("first-try", 3)
    assert task["resources"] == {"accelerators": "H100:4"}
    assert task["envs"] == {"OMP_NUM_THREADS": "1"}
    assert set(task) == {"name", "resources", "num_nodes", "workdir", "envs", "setup", "run"}


@pytest.mark.parametrize(("node", "is_host", "own"), [(0, "true", "10.0.0.1"), (1, "false", "10.0.0.2")])
def test_every_skypilot_node_meets_the_others_on_the_first(
    node: int, is_host: str, own: str, launch: Launch, tmp_path: Path
) -> None:
    task = yaml.safe_load(page(launch("skypilot", gpus=4)))
    assert skypilot_argv(task, tmp_path, node) == [
        "--nnodes=2",
        "--nproc-per-node=4",
        "--rdzv-backend=c10d",
        "--rdzv-id=out",
        "--rdzv-endpoint=10.0.0.1:29500",
        f"--rdzv-conf=is_host={is_host}",
        f"--local-addr={own}",
        *OPTIONS,
        f"--log-dir=out/logs/node-{node}",
        *arguments("data"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_skypilot_task_reach_finetune_as_they_are(name: str, launch: Launch, tmp_path: Path) -> None:
    task = yaml.safe_load(page(launch("skypilot", data=name, output=name, run_name=name)))
    argv = skypilot_argv(task, tmp_path, 0)
    assert argv[-8:] == [f"--log-dir={safe(name)}/logs/node-0", *arguments(name)]
    assert not (tmp_path / "hacked").exists()


def replicas(job: Job) -> dict[str, Any]:
    manifest = yaml.safe_load(page(job))
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert manifest["spec"]["nprocPerNode"] == str(job.gpus)
    return manifest["spec"]["pytorchReplicaSpecs"]


@pytest.mark.parametrize(("nodes", "counts"), [(1, {"Master": 1}), (4, {"Master": 1, "Worker": 3})])
def test_a_pytorchjob_has_one_master_and_a_worker_for_every_other_node(
    nodes: int, counts: dict[str, int], launch: Launch
) -> None:
    found = replicas(launch("kubeflow", nodes=nodes))
    assert {role: replica["replicas"] for role, replica in found.items()} == counts
    for replica in found.values():
        pod = replica["template"]["spec"]
        (container,) = pod["containers"]
        assert replica["restartPolicy"] == "OnFailure"
        assert pod["terminationGracePeriodSeconds"] == 300
        assert container["name"] == "pytorch"
        assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
        assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "1"}]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"workspace": container["workingDir"], "shm": "/dev/shm"}
        assert [volume["name"] for volume in pod["volumes"]] == list(mounted)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_pytorchjob_reach_finetune_as_they_are(name: str, launch: Launch) -> None:
    set_by_operator = {"MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "PET_NODE_RANK": "1"}
    replica = replicas(launch("kubeflow", data=name, output=name, run_name=name))["Worker"]
    command = replica["template"]["spec"]["containers"][0]["command"]
    assert [expanded(word, set_by_operator) for word in command] == [
        "torchrun",
        "--master-addr=job-master-0",
        "--master-port=23456",
        *OPTIONS,
        f"--log-dir={safe(name)}/logs/node-1",
        *arguments(name),
    ]


@pytest.mark.parametrize("kind", ["skypilot", "kubeflow"])
def test_what_a_person_must_fill_in_is_marked(kind: Any, launch: Launch) -> None:
    lines = page(launch(kind)).splitlines()
    assert all("ill in" in line for line in lines if re.search("YOUR-(IMAGE|CLAIM)|H100", line))
    assert any("ill in" in line for line in lines)
