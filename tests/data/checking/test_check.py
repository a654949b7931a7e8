"""What `finetune check` finds in data before a model is touched, and what `--fix` makes of it."""

import json

import pytest

from finetune.config.schema import Config, DataConfig
from finetune.data.checking.check import all_of, check_data
from finetune.data.checking.fix import fix
from finetune.data.checking.problems import pages
from finetune.errors import DataError, FolderInUseError


def row(question="q", answer="a", **rest):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **rest,
    }


def write(path, *rows):
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def found(report) -> dict[str, list[str]]:
    """Code -> file:line:col of what was kept, files without their folders."""
    return {
        code: [f"{one.source.rsplit('/', 1)[-1]}:{one.line}:{one.column}" for one in kept]
        for code, kept in report.findings.kept.items()
    }


@pytest.fixture
def data(tmp_path):
    unanswered = {"messages": [{"role": "user", "content": "q"}]}
    return write(tmp_path / "data.jsonl", row(), row("好" * 400), row(), unanswered, row(answer=""), "{")


def test_mistakes_and_warnings_are_found_without_a_template(data):
    report = check_data(data)
    assert (report.rows, report.format, report.ok) == (6, "messages", False)
    assert found(report) == {
        "E205": ["data.jsonl:5:82"],
        "E105": ["data.jsonl:6:2"],
        "W522": ["data.jsonl:4:1"],
        "W501": ["data.jsonl:3:0"],
    }
    assert report.counts["conversations"] == 4 and report.counts["assistant turns"] == 3
    assert report.lengths == {}


def test_with_a_template_the_report_says_what_the_limit_would_cut(data, glm4):
    report = check_data(data, glm4)
    (file,) = report.files
    assert {fate: n for fate, n in file.ledger.fates.items() if n} == {
        "trained": 2,
        "too_long": 1,
        "no_answer": 1,
        "malformed": 2,
    }
    assert found(report)["W504"] == ["data.jsonl:2:1"]
    assert report.lengths == {50: 9, 90: 1208, 95: 1208, 99: 1208, 100: 1208}
    assert report.supervised == pytest.approx(9 / (9 + 9 + 1208))


def test_the_report_reads_well_on_the_screen(data, glm4):
    assert check_data(data, glm4).lines() == [
        f"{data}:6:2: E105 not valid JSON: cut off in the middle of a record; "
        "the file ends here without a line break",
        f"{data}:5:82: E205 message 2 (assistant) is empty; write its content or leave the record out",
        f"{data}:3: W501 says the same as {data}:1",
        f"{data}:2:1: W504 1,208 tokens, the limit is 1,024 (max_input_length + max_output_length): "
        "it would be left out",
        f"{data}:4:1: W522 no assistant turn: there is nothing to learn from",
        f"{data}: 6 rows for training",
        '  format: messages, because records have "messages" (line 1)',
        "  conversations: 4, assistant turns: 3",
        "  6 rows: 2 trained, 1 dropped: too long, 1 dropped: no answer to learn, 2 dropped: malformed",
        "letters: 98.5% Han, 1.5% Latin",
        "tokens of a conversation: 9 (p50), 1,208 (p90), 1,208 (p95), 1,208 (p99), 1,208 (longest); "
        "the limit is 1,024",
        "learnt: 0.7% of all tokens; a turn has 3 (p50), 3 (p90), 3 (p95), 3 (p99), 3 (longest)",
        "2 mistakes, 3 warnings in 6 rows; `finetune docs E105 E205 W501 W504` says more",
    ]


def test_the_report_is_plain_json_with_every_code_counted(data, glm4):
    described = json.loads(json.dumps(check_data(data, glm4).as_dict()))
    assert (described["errors"], described["warnings"], described["lengths"]["longest"]) == (2, 3, 1208)
    assert described["findings"]["E205"]["places"][0]["column"] == 82
    assert described["files"][0]["ledger"]["trained"] == 2


def test_many_mistakes_are_counted_and_the_first_are_shown(tmp_path):
    report = check_data(write(tmp_path / "a.jsonl", row(), *["{"] * 500))
    assert (report.findings.errors, len(report.findings.kept["E105"])) == (500, 20)
    assert f"… E105 497 times more: {pages()['E105'].splitlines()[0].removeprefix('E105 ')}" in report.lines()


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (row("Hello there", "A b"), "W501"),
        (row("Hello there", "A b", id=7), "W501"),
        (row("hello  THERE", "a b\n"), "W502"),
        (row("Hello there.", "A b"), None),
        (row("Hello there", "B a"), None),
    ],
)
def test_rows_that_say_the_same_are_told_from_rows_that_do_not(tmp_path, second, code):
    report = check_data(write(tmp_path / "a.jsonl", row("Hello there", "A b"), row(), second))
    assert found(report) == ({code: ["a.jsonl:3:0"]} if code else {})


def test_the_same_words_of_another_role_or_call_are_not_the_same(tmp_path):
    def calling(arguments):
        call = {"function": {"name": "f", "arguments": arguments}}
        tool = {"function": {"name": "f", "parameters": {}}}
        return {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}],
            "tools": [tool],
        }

    system = {"messages": [{"role": "system", "content": "q"}, {"role": "assistant", "content": "a"}]}
    report = check_data(write(tmp_path / "a.jsonl", row(), system, calling({"x": 1}), calling({"x": 2})))
    assert "W501" not in found(report) and "W502" not in found(report)


def test_what_is_evaluated_on_must_not_be_trained_on(tmp_path):
    write(tmp_path / "train.jsonl", row("a"), row("b"), row("c"))
    write(tmp_path / "dev.jsonl", row("d"), row("B"), row("e"))
    write(tmp_path / "my-test.jsonl", row("a"), row("d"), row("f"))
    report = check_data(tmp_path)
    assert {file.path.rsplit("/", 1)[1]: file.split for file in report.files} == {
        "dev.jsonl": "validation",
        "my-test.jsonl": "test",
        "train.jsonl": "training",
    }
    assert found(report)["W503"] == ["dev.jsonl:2:0", "my-test.jsonl:1:0", "my-test.jsonl:2:0"]
    first = report.findings.kept["W503"][0]
    assert (
        first.reason
        == f"this row for validation says what {tmp_path}/train.jsonl:2 says, which is for training"
    )
    assert report.ok


def test_a_configuration_says_which_files_of_a_folder_count_and_for_what(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.jsonl", row(name, "x"), row("same"))
    config = Config(data_config=DataConfig(train_file="a.jsonl", val_file="b.jsonl", test_file="b.jsonl"))
    report = check_data(tmp_path, config=config)
    assert [(file.path[-7:], file.split) for file in report.files] == [
        ("a.jsonl", "training"),
        ("b.jsonl", "validation"),
    ]
    assert found(report) == {"W503": ["b.jsonl:2:0"]}


def test_overflow_error_makes_a_long_row_a_mistake_and_truncation_says_so(data, glm4):
    def config(overflow):
        return Config(data_config=DataConfig(train_file="x", overflow=overflow))

    assert found(check_data(data, glm4, config("error")))["E401"] == ["data.jsonl:2:1"]
    (long,) = check_data(data, glm4, config("truncate-left")).findings.kept["W504"]
    assert long.reason.endswith("it would be left out")  # its one answer does not fit, whatever is cut


def test_a_row_whose_answers_are_all_context_is_told(tmp_path, glm4):
    path = write(
        tmp_path / "a.jsonl",
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},
    )
    assert found(check_data(path, glm4)) == {"W505": ["a.jsonl:1:1"]}


def test_writing_systems_are_told_by_their_share_of_letters(tmp_path):
    path = write(tmp_path / "a.jsonl", row("你好你好", "abcd"), row("абвг 123 …", "かなカナ"))
    shares = check_data(path).writing
    assert shares == {name: pytest.approx(0.25) for name in ("Latin", "Cyrillic", "Kana", "Han")}


def test_a_good_file_is_ok(tmp_path):
    assert check_data(write(tmp_path / "good.jsonl", row())).ok


def test_an_empty_file_is_not_ok(tmp_path, glm4):
    report = check_data(write(tmp_path / "empty.jsonl", ""), glm4)
    assert not report.ok and report.rows == 0 and report.lines()


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        check_data(tmp_path / "none.jsonl")


# --- fix


def fixed(data, output, template=None):
    report = check_data(data, template)
    return report, fix(report, all_of(data), output)


def test_fix_writes_what_can_be_used_and_lists_the_rest(data, tmp_path):
    report, lines = fixed(data, tmp_path / "out")
    kept = (tmp_path / "out" / "data.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"][0]["content"][:2] for line in kept] == ["q", "好好", "q"]
    rejected = [
        json.loads(line) for line in (tmp_path / "out" / "left-out" / "rejected.jsonl").read_text().splitlines()
    ]
    assert [(one["line"], one["code"]) for one in rejected] == [(3, "W501"), (5, "E205"), (6, "E105")]
    assert len(kept) + len(rejected) == report.rows
    assert lines[0] == f"{tmp_path}/out/data.jsonl: 3 of 6 records of {data}"


def test_what_was_fixed_has_nothing_left_to_fix(data, tmp_path, glm4):
    fixed(data, tmp_path / "out", glm4)
    again = check_data(tmp_path / "out" / "data.jsonl", glm4)
    assert again.ok and "W501" not in found(again)
    fixed(tmp_path / "out" / "data.jsonl", tmp_path / "again", glm4)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["data.jsonl"]
    assert (tmp_path / "again" / "data.jsonl").read_bytes() == (tmp_path / "out" / "data.jsonl").read_bytes()


def test_fix_leaves_out_what_the_template_cannot_write_and_keeps_every_field(tmp_path, glm4):
    pictured = {
        "messages": [{"role": "user", "content": "q", "image": "x.png"}, {"role": "assistant", "content": "a"}]
    }
    path = write(tmp_path / "a.json", json.dumps([row(), pictured, row("r", extra={"deep": [None, 1.5]})]))
    fixed(path, tmp_path / "out", glm4)
    kept = (tmp_path / "out" / "a.json.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in kept] == [row(), row("r", extra={"deep": [None, 1.5]})]
    (rejected,) = (tmp_path / "out" / "left-out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["code"] == "E312"


def test_fix_never_writes_over_anything(data, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FolderInUseError, match="exists already"):
        fixed(data, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_is_fixed_file_by_file(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "train.jsonl", row("a"), row("a"), "{")
    write(folder / "dev.json", json.dumps([row("a"), row("b")]))
    fixed(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dev.json.jsonl",
        "left-out",
        "train.jsonl",
    ]
    assert len((tmp_path / "out" / "dev.json.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "out" / "train.jsonl").read_text().splitlines()) == 1


def test_files_of_one_name_are_all_kept_whatever_they_are_called(tmp_path):
    folder = tmp_path / "in"
    for part, name in (("x", "t.jsonl"), ("y", "t.jsonl"), ("x", "rejected.jsonl")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        write(folder / part / name, row(f"{part} {name}"), "{")
    files = [{"file": name} for name in ("x/t.jsonl", "y/t.jsonl", "x/rejected.jsonl")]
    config = Config.model_validate({"data_config": {"train_file": files}})
    fix(check_data(folder, config=config), config, tmp_path / "out")
    kept = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.jsonl")}
    assert {name: one["messages"][0]["content"] for name, one in kept.items()} == {
        "t.jsonl": "x t.jsonl",
        "t-2.jsonl": "y t.jsonl",
        "rejected.jsonl": "x rejected.jsonl",
    }
    assert len((tmp_path / "out" / "left-out" / "rejected.jsonl").read_text().splitlines()) == 3


def test_what_is_left_out_is_listed_with_its_record_and_is_no_data_of_the_new_folder(tmp_path):
    path = write(tmp_path / "a.jsonl", row(), row(answer=""))
    fixed(path, tmp_path / "out")
    (rejected,) = (tmp_path / "out" / "left-out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["record"] == row(answer="")
    assert check_data(tmp_path / "out").ok


def test_rows_with_other_tools_or_other_turns_to_learn_are_not_the_same(tmp_path):
    tools = [{"name": "f"}, {"name": "f", "description": "x"}, {"name": "f", "parameters": {"required": ["a"]}}]
    marked = row()
    marked["messages"][1]["train"] = False
    rows = [*(row(tools=[tool]) for tool in tools), row(), marked]
    report = check_data(write(tmp_path / "a.jsonl", *rows))
    assert "W501" not in found(report) and "W502" not in found(report)


def test_a_folder_is_the_same_with_a_slash_behind_it(tmp_path):
    write(tmp_path / "train.jsonl", row("x"))
    write(tmp_path / "dev.jsonl", row("x"))
    assert found(check_data(f"{tmp_path}/")) == found(check_data(tmp_path)) == {"W503": ["dev.jsonl:1:0"]}
    with pytest.raises(DataError, match="empty text"):
        check_data("")


def test_a_file_that_is_both_trained_and_evaluated_on_is_told(tmp_path):
    write(tmp_path / "a.jsonl", row("x"))
    config = Config(data_config=DataConfig(train_file="a.jsonl", val_file="a.jsonl"))
    (told,) = check_data(tmp_path, config=config).findings.kept["W503"]
    assert told.reason.startswith("the file for validation is one for training, too")


@pytest.mark.parametrize("address", [5, ["a"], {}])
def test_a_tool_schema_that_names_no_schema_is_a_warning_not_a_crash(tmp_path, address):
    call = {"function": {"name": "f", "arguments": {}}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    tool = {"name": "f", "parameters": {"$schema": address, "type": "object"}}
    report = check_data(write(tmp_path / "a.jsonl", {"messages": turns, "tools": [tool]}))
    assert report.ok and "W525" in found(report)
