"""The page that a run folder becomes: complete, safe whatever the data says, patient with what is missing."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.errors import ModelError
from finetune.report import write_report
from finetune.report.page import render
from finetune.report.read import read_run_files

SECTIONS = {"curves", "scores", "samples", "conversations", "data", "config", "facts", "command"}
VOID = {"meta", "br", "link", "input", "img", "hr"}


class Checker(HTMLParser):
    """Reads a page as a browser would: are its elements closed, what do they load, what text do they show?"""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.shown += data


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def report(folder: Path) -> Checker:
    return read(write_report(folder).read_text(encoding="utf-8"))


def change(folder: Path, **sections: Any) -> Path:
    """Replace sections of run.json; None takes one away."""
    path = folder / "run.json"
    run = json.loads(path.read_text(encoding="utf-8")) | sections
    path.write_text(json.dumps({k: v for k, v in run.items() if v is not None}), encoding="utf-8")
    return folder


# --- a finished run


@pytest.fixture(scope="module")
def shown(untouched: Path) -> str:
    """The text of the page of a finished run."""
    return report(untouched).shown


@pytest.mark.parametrize(
    "text",
    [
        *("glm-4-9b-chat · LoRA r 8", "✓ done", "2026-11-22 14:03 · took 6 min 32 s"),
        *("training loss", "best eval loss", "300 / 300", "2.79M", "19.4 GB", "base 11.9, +41.2"),
        *("Learning rate", "Gradient norm", "Tokens per second", "Evaluation: rouge", "eval loss"),
        *("lora.yaml:11", "--set", "5 settings stood at their defaults"),
        *("train.jsonl", "940", "too long", "every record has a list `messages`", "turns left out: 212"),
        *("保持健康的三个提示。", "rouge-chinese 1.0.3, jieba", "cut off at the length limit"),
        *("transformers", "5.23.0", "NVIDIA H200", "finetune train data/"),
    ],
)
def test_the_page_of_a_finished_run_shows_what_matters(shown: str, text: str) -> None:
    assert text in shown


def test_every_link_leads_to_a_section_of_the_page(finished: Path) -> None:
    page = report(finished)
    assert page.links == {f"#{anchor}" for anchor in page.ids}
    assert page.ids == SECTIONS


def test_the_page_loads_nothing_and_runs_nothing(finished: Path) -> None:
    text = write_report(finished).read_text(encoding="utf-8")
    page = read(text)
    assert not page.tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
        "use",
        "form",
        "base",
    }
    assert not {name for name in page.attributes if name.startswith("on")} | page.attributes & {"src", "style"}
    assert not [loads for loads in ("url(", "@import", "http://", "https://") if loads in text]
    assert "default-src 'none'" in text


def test_the_page_has_a_dark_scheme_and_a_form_for_phones(finished: Path) -> None:
    text = write_report(finished).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text and "max-width: 700px" in text


def test_trained_text_is_underlined_and_context_is_not(finished: Path) -> None:
    text = write_report(finished).read_text(encoding="utf-8")
    assert '<u class="trained">get_weather<span class="newline"' in text
    assert "text-decoration: underline" in text
    assert '<u class="trained">What is the weather' not in text


def test_a_control_token_is_shown_as_text(finished: Path) -> None:
    assert "<|observation|>" in report(finished).shown


def test_the_ledger_says_when_it_does_not_add_up(finished: Path) -> None:
    entry = {"split": "train", "file": "a.jsonl", "ledger": {"rows": 10, "trained": 7, "too_long": 1}}
    assert "✗ +2" in report(change(finished, data=[entry])).shown
    entry["ledger"] = {"rows": 10, "fates": {"trained": 7, "too_long": 1}, "not_drawn": 2}
    assert "✗ +" not in report(change(finished, data=[entry])).shown


def test_scores_of_the_base_stand_beside_those_of_the_tuned_model(finished: Path) -> None:
    before = {"scores": {"rouge-l": 22.2}}
    run = change(finished, before=before, result={"evaluation": {"scores": {"rouge-l": 44.4}}})
    assert "+22.2" in report(run).shown


def test_a_lower_loss_is_better_and_a_lower_score_is_worse(finished: Path) -> None:
    before = {"scores": {"rouge-l": 50}, "loss": 2.0}
    result = {"evaluation": {"scores": {"rouge-l": 40}, "loss": 1.0}}
    shown = report(change(finished, before=before, result=result)).shown
    assert "▼ −10.0" in shown and "▲ −1" in shown


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        (None, "full fine-tuning"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 128}, "P-Tuning v2 128 tokens"),
        ({"peft_type": "NEWEST"}, "NEWEST"),
    ],
)
def test_the_title_names_the_method(finished: Path, tuning: Any, expected: str) -> None:
    page = report(change(finished, config={"max_input_length": 512, "peft_config": tuning}))
    assert f"glm-4-9b-chat · {expected}" in page.shown


# --- whatever the data says

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>]]><!--"


def test_no_text_becomes_markup(finished: Path) -> None:
    line = {"origin": EVIL, "turn": EVIL, "prompt": EVIL, "reference": EVIL, "prediction": EVIL}
    answer = {**line, "scores": {EVIL: EVIL}, "kind": EVIL, "finish": EVIL, "tool_call": {EVIL: EVIL}}
    (finished / "predictions.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    metrics = {"step": 1, "loss": 1.0, f"eval_{EVIL}": 2.0}
    (finished / "metrics.jsonl").write_text(json.dumps(metrics) + "\n", encoding="utf-8")
    everywhere = {
        "model": f"/m/{EVIL.replace('/', '_')}",
        "status": EVIL,
        "error": EVIL,
        "started": EVIL,
        "command": [EVIL],
        "config": {EVIL: EVIL, "list": [EVIL], "peft_config": {"peft_type": EVIL, "r": EVIL}},
        "origins": {EVIL: EVIL},
        "data": [
            {"split": EVIL, "file": EVIL, "format": EVIL, "why": EVIL, "sha256": EVIL, "ledger": {EVIL: 1}}
        ],
        "base": {EVIL: EVIL},
        "versions": {EVIL: EVIL},
        "environment": {EVIL: EVIL},
        "plan": {EVIL: EVIL},
        "result": {EVIL: EVIL, "evaluation": {"scores": {EVIL: 1}, "signatures": {EVIL: EVIL}}},
        "preview": [{"origin": EVIL, "pieces": [{"text": EVIL, "trained": True}, {"text": EVIL}]}],
    }
    page = report(change(finished, **everywhere))
    assert not page.tags & {"script", "img"}
    assert "onerror" not in page.attributes
    assert page.shown.count(EVIL) >= 15


def test_what_cannot_be_printed_is_replaced(finished: Path) -> None:
    pieces = [{"text": "a\x00b\ud800c\x1b[31m", "trained": True}]
    page = report(change(finished, preview=[{"origin": "x:1", "pieces": pieces}]))
    assert "a\ufffdb\ufffdc\ufffd[31m" in page.shown


def test_a_tool_call_shows_what_was_right_about_it(finished: Path) -> None:
    marks = {"name": True, "arguments": False, "parsed": True}
    answer = {"kind": "tool_call", "tool_call": marks, "scores": {}, "prediction": "f\n{}"}
    (finished / "predictions.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    shown = report(finished).shown
    assert "tool call✓ name✗ arguments✓ parsed" in shown


def test_a_setting_names_the_file_that_set_it_without_its_folder(finished: Path) -> None:
    origins = {"training_args.max_steps": "/home/me/configs/lora.yaml:5"}
    text = write_report(change(finished, origins=origins)).read_text(encoding="utf-8")
    assert 'title="/home/me/configs/lora.yaml:5">lora.yaml:5<' in text


def test_files_are_named_without_their_folders(finished: Path) -> None:
    change(finished, data=[{"split": "train", "file": "/data/a.jsonl"}, {"split": "test", "file": "owner/set"}])
    change(finished, preview=[{"origin": "/data/a.jsonl:3", "pieces": []}])
    shown = report(finished).shown
    assert "/data" not in shown and "a.jsonl:3" in shown and "owner/set" in shown


def test_a_preview_may_be_a_bare_list_of_pieces(finished: Path) -> None:
    page = report(change(finished, preview=[[{"text": "bare", "trained": True, "origin": "x:9"}]]))
    assert "bare" in page.shown and "x:9" in page.shown


def test_pictures_are_named_and_never_loaded(finished: Path) -> None:
    picture = {"path": "/data/images/cat.png", "tokens": 1234}
    pieces = [{"text": "images/cat.png: tokens 5 to 1238", "trained": False, "picture": picture}]
    answer = {"origin": "x:1", "prompt": "p", "images": ["/data/images/cat.png", "/data/dog.png"]}
    (finished / "predictions.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    page = report(change(finished, preview=[{"origin": "x:1", "pieces": pieces}]))
    assert "images/cat.png: tokens 5 to 1238 (1,234 tokens)" in page.shown
    assert "images: cat.png, dog.png" in page.shown
    assert "img" not in page.tags
    assert "img-src 'none'" in (finished / "report.html").read_text(encoding="utf-8")


def test_long_texts_are_cut_and_say_so(finished: Path) -> None:
    answer = {"origin": "x:1", "prompt": "p", "reference": "r" * 100_000, "prediction": "w"}
    (finished / "predictions.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    change(finished, preview=[{"origin": "x:1", "pieces": [{"text": "t" * 100_000, "trained": False}]}])
    page = report(finished)
    assert "94,000 characters more in predictions.jsonl" in page.shown
    assert "… cut here" in page.shown


SECRET = "hf_" + "abcdefghijklmnop"


@pytest.mark.parametrize(
    "section",
    [
        {"command": ["finetune", "--set", f"hub_token={SECRET}"]},
        {"command": ["finetune", "--token", "topsecretvalue"]},
        {"command": ["finetune", "--set", "training_args.api_key=topsecretvalue"]},
        {"config": {"training_args": {"hub_token": "topsecretvalue"}}},
        {"config": {"swanlab": {"api_key": "topsecretvalue"}}},
        {"error": f"401 for {SECRET}"},
        {"error": "https://me:topsecretvalue@proxy.example failed"},
        {"environment": {"WANDB_API_KEY": "topsecretvalue", "https_proxy": "http://me:topsecretvalue@proxy"}},
        {"environment": {"variables": {"PATH": "topsecretvalue"}}},
        {"environment": {"env": ["PATH=topsecretvalue"]}},
        {"base": {"token": "topsecretvalue"}},
    ],
)
def test_passwords_tokens_and_environment_values_are_not_shown(finished: Path, section: dict[str, Any]) -> None:
    shown = report(change(finished, **section)).shown
    assert "topsecretvalue" not in shown and SECRET not in shown


def test_settings_that_only_sound_like_secrets_are_shown(finished: Path) -> None:
    shown = report(change(finished, config={"max_new_tokens": 512, "tokens_per_micro_batch": "auto"})).shown
    assert "512" in shown and "auto" in shown and "(hidden)" not in shown


# --- folders that are not complete


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = report(tmp_path)
    for told in ("run.json is not there", "metrics.jsonl is not there", "There is no predictions.jsonl"):
        assert told in page.shown
    assert tmp_path.name in page.shown


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("run.json", {"scores", "conversations", "data", "config", "facts", "command"}),
        ("metrics.jsonl", {"curves"}),
        ("predictions.jsonl", set()),
    ],
)
def test_one_missing_file_costs_only_its_own_sections(finished: Path, name: str, lost: set[str]) -> None:
    (finished / name).unlink()
    assert report(finished).ids == SECTIONS - lost


def test_a_run_without_predictions_is_no_cause_for_alarm(finished: Path) -> None:
    (finished / "predictions.jsonl").unlink()
    page = report(finished)
    assert "What this page lacks" not in page.shown and "nothing was evaluated yet" in page.shown


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null", b'{"a": ' * 100_000])
def test_a_damaged_run_json_is_told(finished: Path, content: bytes) -> None:
    (finished / "run.json").write_bytes(content)
    assert "run.json is damaged" in report(finished).shown


def test_half_a_line_is_left_out_and_counted(finished: Path) -> None:
    for name in ("metrics.jsonl", "predictions.jsonl"):
        with (finished / name).open("a") as file:
            file.write('{"step": 301, "lo')
    page = report(finished)
    assert "metrics.jsonl has 1 line that does not parse" in page.shown
    assert "predictions.jsonl has 1 line that does not parse" in page.shown


def test_a_run_that_goes_on_shows_how_far_it_is(finished: Path) -> None:
    change(finished, status="running", finished=None, result=None, plan={"steps": 1200})
    page = report(finished)
    assert "● running" in page.shown and "300 of 1,200 steps logged" in page.shown
    assert "since 2026-11-22 14:03" in page.shown and "progress" in page.tags


def test_a_run_that_failed_says_why(finished: Path) -> None:
    error = "the gradient of step 41 is not finite: train.jsonl:17"
    page = report(change(finished, status="failed", exit_code=7, error=error))
    assert "✗ failed" in page.shown and "exit code 7" in page.shown and error in page.shown


def test_a_folder_that_is_not_there_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        write_report(tmp_path / "nothing")


def test_the_page_is_written_whole_and_for_everybody_to_read(finished: Path) -> None:
    before = set(finished.iterdir())
    path = write_report(finished)
    assert path == finished / "report.html"
    assert set(finished.iterdir()) - before == {path}
    assert path.stat().st_mode & 0o777 == 0o644


def test_writing_it_twice_gives_the_same_bytes(finished: Path) -> None:
    assert write_report(finished).read_bytes() == write_report(finished).read_bytes()


def test_a_long_run_gives_a_page_of_reasonable_size(finished: Path) -> None:
    with (finished / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            values = {"loss": 100.0 if step == 7777 else 2.0, "grad_norm": 1.0, "tokens_per_second": 1.0}
            file.write(json.dumps({"step": step, **values}) + "\n")
    assert write_report(finished).stat().st_size < 500_000


def test_the_report_needs_no_torch(finished: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from finetune.report import write_report; "
        "write_report(Path(sys.argv[1])); "
        "print([name for name in ('torch', 'transformers', 'numpy', 'rich', 'jinja2') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program, finished], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


KEYS = ["config", "origins", "data", "base", "plan", "result", "environment", "versions", "preview", "command"]
NAMES = [
    "step",
    "loss",
    "eval_loss",
    "scores",
    "rouge-l",
    "rows",
    "ledger",
    "trained",
    "pieces",
    "text",
    "steps",
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
RUNS = st.dictionaries(
    st.sampled_from([*KEYS, "status", "started", "finished", "model", "error"]), VALUES, max_size=6
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=VALUES | RUNS, metrics=st.lists(VALUES, max_size=4), answers=st.lists(VALUES, max_size=3))
def test_any_json_makes_a_well_formed_page(tmp_path: Path, run: Any, metrics: Any, answers: Any) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run))
    for name, values in (("metrics.jsonl", metrics), ("predictions.jsonl", answers)):
        (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    page = read(render(read_run_files(tmp_path)))
    assert "script" not in page.tags
