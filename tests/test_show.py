"""What `finetune show` shows is what training gets: token for token, what is cut, in order, and readable."""

import json
from pathlib import Path

import pytest

from finetune.chat.load import load_template
from finetune.config.schema import DataConfig
from finetune.data.dataset import load_examples
from finetune.errors import ConfigError, DataError, FolderInUseError
from finetune.show import print_views, show, summary, write_page

TALK = [("问题一" * 4, "答案一"), ("<|user|> is no role here", "right"), ("last", "终")]


def messages(*pairs):
    return {
        "messages": [
            m for q, a in pairs for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})
        ]
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [messages(*TALK), messages(("q", "a")), {"messages": []}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def shown(data: Path, model: Path, config: Path | None = None, **options):
    given = {"count": 2, "line": None, "batch": False} | options
    return show(str(data), str(model), config, **given)


def yaml(folder: Path, **values) -> Path:
    path = folder / "c.yaml"
    path.write_text(json.dumps({"data_config": {"train_file": "train.jsonl"}} | values))
    return path


def test_every_token_is_shown_once_and_what_is_trained_is_what_training_learns(data: Path, small: Path) -> None:
    _, views = shown(data, small)
    template = load_template(small)
    config = DataConfig(train_file=data.name, on_bad_record="skip")
    examples = load_examples(config, data.name, data.parent, template, max_length=1024)
    assert [view.origin for view in views] == [f"{data}:1", f"{data}:2"]
    for view, example in zip(views, examples, strict=True):
        assert "".join(run.text for run in view.runs) == template.visible(example.input_ids.tolist())
        assert sum(run.tokens for run in view.runs) == len(example.input_ids)
        assert view.tokens("trained") == int(example.loss_mask.sum())


def test_chinese_is_whole_control_tokens_show_and_those_only_spelt_are_marked(data: Path, small: Path) -> None:
    _, (view, _) = shown(data, small)
    assert [(run.kind, run.text) for run in view.runs] == [
        ("context", "[gMASK]<sop><|user|>\n问题一问题一问题一问题一<|assistant|>"),
        ("trained", "\n答案一<|user|>"),
        ("context", "\n\\<|user|> is no role here<|assistant|>"),
        ("trained", "\nright<|user|>"),
        ("context", "\nlast<|assistant|>"),
        ("trained", "\n终<|user|>"),
    ]


def test_what_the_limit_cuts_is_shown_as_cut_and_the_rest_as_training_has_it(data: Path, small: Path) -> None:
    whole = sum(run.tokens for run in shown(data, small)[1][0].runs)
    limits = {"max_input_length": whole - 2, "max_output_length": 1}
    cutting = {"data_config": {"train_file": "x", "overflow": "truncate-left"}}
    _, (view, _) = shown(data, small, yaml(data.parent, **limits, **cutting))
    assert [(run.kind, run.text) for run in view.runs][:3] == [
        ("context", "[gMASK]<sop>"),
        ("cut", "<|user|>\n问题一问题一问题一问题一<|assistant|>\n答案一"),
        ("context", "<|user|>\n\\<|user|> is no role here<|assistant|>"),
    ]
    assert summary(view).endswith(f"cut to {whole - 1} tokens")
    _, (left_out, kept) = shown(data, small, yaml(data.parent, **limits))
    assert left_out.tokens("cut") == whole and "left out" in left_out.note
    assert kept.tokens("cut") == 0


def test_a_line_is_found_and_a_bad_record_is_shown_as_what_is_wrong_with_it(data: Path, small: Path) -> None:
    _, (view,) = shown(data, small, line=2)
    assert view.origin == f"{data}:2"
    _, (view,) = shown(data, small, line=3)
    assert view.note == "refused: E203 the list of messages is empty"
    with pytest.raises(DataError, match=r"train\.jsonl:4: no record stands there"):
        shown(data, small, line=4)
    with pytest.raises(ConfigError, match="is a folder"):
        shown(data.parent, small, line=1)


def test_a_line_inside_a_record_of_several_lines_finds_it(tmp_path: Path, small: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([messages(("q", "a")), messages(("r", "b"))], indent=1))
    _, (view,) = shown(path, small, line=5)
    assert view.runs[0].text.endswith("q<|assistant|>")
    with pytest.raises(DataError, match="no record stands there"):
        shown(path, small, line=99)


def test_a_micro_batch_is_the_one_that_training_computes_first(data: Path, small: Path) -> None:
    skip = {"data_config": {"train_file": "train.jsonl", "on_bad_record": "skip"}}
    heading, views = shown(data.parent, small, yaml(data.parent, **skip), batch=True)
    assert heading.startswith("step 1: 2 conversations, ")
    assert sorted(view.origin for view in views) == [f"{data}:1", f"{data}:2"]
    first, second = views
    end = sum(run.tokens for run in first.runs)
    assert first.note == f"1 of 2 in the micro-batch, its tokens 0 to {end - 1}"
    assert second.note.startswith(f"2 of 2 in the micro-batch, its tokens {end} to ")


def test_on_the_screen_words_say_what_colours_repeat(
    data: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_views(*shown(data, small, line=2))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[2:] == [
        f"{data}:2  9 tokens: 3 trained, 6 context; trained",
        "  context       6 │[gMASK]<sop><|user|>↵",
        "                  │q<|assistant|>",
        "  trained       3 │↵",
        "                  │a<|user|>",
    ]


def test_the_page_marks_what_is_trained_and_loads_nothing(data: Path, small: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "out.html", *shown(data, small))
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    trained = sum(run.kind == "trained" for view in shown(data, small)[1] for run in view.runs)
    assert page.count('<u class="trained">') == trained + 1  # and the legend's
    assert "答案一" in page and "train.jsonl:1" in page and "\ufffd" not in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page


def test_what_would_steer_a_terminal_is_shown_as_an_escape(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(messages(("\x1b[2J\r\b", "a\u202eb"))) + "\n" + json.dumps({"\x1b[2J": 1}))
    print_views(*shown(path, small))
    out = capsys.readouterr().out
    assert not set("\x1b\r\b\u202e") & set(out)
    assert r"\x1b[2J\r\x08" in out and r"a\u202eb" in out


@pytest.mark.parametrize("name", ["train.jsonl", "folder"])
def test_the_page_never_takes_the_place_of_anything_but_a_page(data: Path, small: Path, name: str) -> None:
    (data.parent / "folder").mkdir()
    before = data.read_bytes()
    with pytest.raises(FolderInUseError, match="is no HTML page"):
        write_page(data.parent / name, *shown(data, small))
    assert data.read_bytes() == before
