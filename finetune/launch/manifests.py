"""The job files that are YAML: a SkyPilot task and a Kubeflow PyTorchJob."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from finetune.launch.job import GRACE, TORCHRUN_OPTIONS, WARNING, Job
from finetune.launch.scripts import skypilot_run

_SKYPILOT_HEAD = """\
# sky jobs launch goes on after a preemption, sky launch does not. The folder in which it is called is copied to
# every node; relative paths begin there. output_dir must lie on storage that all nodes share and that outlives
# them. Fill in and uncomment:
# file_mounts:
#   /shared:
#     source: s3://YOUR-BUCKET
#     mode: MOUNT
"""

_KUBEFLOW_HEAD = f"""\
# For kubectl create -f and the Training Operator, 1.7 or newer: it sets MASTER_ADDR, MASTER_PORT, and the PET_*
# from which torchrun has the numbers of nodes and processes. Fill in the values in capitals. Relative paths
# begin in the claim's folder: data, YAML and output_dir must lie there.
#
# A pod that must go gets TERM and {WARNING} seconds (terminationGracePeriodSeconds). Its ranks finish their
# step, save and leave; torchrun kills what is left after {GRACE} seconds (--shutdown-timeout).
"""

_WORKSPACE = "/workspace"


def skypilot(job: Job) -> str:
    """A task, to be given to sky."""
    gpus = CommentedMap(accelerators=f"H100:{job.gpus}")
    gpus.yaml_add_eol_comment("fill in the kind of GPU; sky show-gpus lists them", "accelerators")
    task = CommentedMap(
        name=_quoted(job.name),
        resources=gpus,
        num_nodes=job.nodes,
        workdir=".",
        envs={"OMP_NUM_THREADS": _quoted("1")},
        setup=_lines("pip install -c constraints.txt .\n"),
        run=_lines(skypilot_run(job)),
    )
    task.yaml_set_comment_before_after_key("setup", "From a checkout of finetune; fill in how you install it.")
    return _dump(job, _SKYPILOT_HEAD, task)


def kubeflow(job: Job) -> str:
    """A PyTorchJob: the first node is its Master, the others are its Workers."""
    replicas = {"Master": _replica(job, 1)}
    if job.nodes > 1:
        replicas["Worker"] = _replica(job, job.nodes - 1)
    manifest = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": _quoted(job.name)},
        "spec": {"nprocPerNode": _quoted(str(job.gpus)), "pytorchReplicaSpecs": replicas},
    }
    return _dump(job, _KUBEFLOW_HEAD, manifest)


def _replica(job: Job, count: int) -> dict[str, Any]:
    claim = CommentedMap(claimName="YOUR-CLAIM")
    claim.yaml_add_eol_comment("fill in: a claim that every node may write (ReadWriteMany)", "claimName")
    pod = {
        "terminationGracePeriodSeconds": WARNING,
        "containers": [_container(job)],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": claim},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # NCCL's; a pod has 64 MB by default
        ],
    }
    return {"replicas": count, "restartPolicy": "OnFailure", "template": {"spec": pod}}


def _container(job: Job) -> CommentedMap:
    container = CommentedMap(
        name="pytorch",  # the operator looks for this name
        image="YOUR-IMAGE",
        workingDir=_WORKSPACE,
        env=[{"name": "OMP_NUM_THREADS", "value": _quoted("1")}],
        command=[_quoted(word) for word in _command(job)],
        resources={"limits": {"nvidia.com/gpu": job.gpus}},
        volumeMounts=[
            {"name": "workspace", "mountPath": _WORKSPACE},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    )
    container.yaml_add_eol_comment("fill in: an image with finetune installed", "image")
    return container


def _command(job: Job) -> list[str]:
    """No shell reads this, but Kubernetes does: it replaces `$(NAME)`, and makes one `$` of two."""
    return [
        "torchrun",
        "--master-addr=$(MASTER_ADDR)",
        "--master-port=$(MASTER_PORT)",
        *TORCHRUN_OPTIONS,
        f"--log-dir={_literal(job.output_dir)}/logs/node-$(PET_NODE_RANK)",
        *map(_literal, job.train),
    ]


def _literal(name: str) -> str:
    return name.replace("$", "$$")


def _lines(text: str) -> str:
    """Text as a block; quoted where a name in it holds what would break a block, such as a carriage return."""
    readable = all(char == "\n" or char.isprintable() for char in text)
    return LiteralScalarString(text) if readable else _quoted(text)


def _quoted(text: str) -> str:
    """Text that stays text: both systems read YAML 1.1, where `yes` is a truth value."""
    return DoubleQuotedScalarString(text)


def _dump(job: Job, head: str, content: object) -> str:
    yaml, stream = YAML(), StringIO()
    yaml.width = 4096  # a folded line is hard to edit
    yaml.dump(content, stream)
    return f"# {job.origin}\n#\n{head}\n{stream.getvalue()}"
