"""What `finetune check` finds in a file before a model is touched."""

import json

import pytest

from finetune.data.check import check_file
from finetune.errors import DataError


def row(question="q", answer="a", **rest):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **rest,
    }


@pytest.fixture
def data(tmp_path):
    rows = [row(), row("好" * 400), row(), {"messages": [{"role": "user", "content": "q"}]}, row(answer="")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([*(json.dumps(one) for one in rows), "{"]), encoding="utf-8")
    return path


def test_counts_mistakes_and_duplicates_are_found_without_a_template(data):
    report = check_file(data)
    assert (report.rows, report.format, report.ok) == (6, "messages", False)
    assert [(p.line, p.column) for p in report.problems] == [(5, 82), (6, 2)]
    assert report.duplicates == ((f"{data}:3", f"{data}:1"),)
    assert report.counts["conversations"] == 4 and report.counts["assistant turns"] == 3
    assert report.ledger is None


def test_with_a_template_the_report_says_what_the_limit_would_cut(data, glm4):
    report = check_file(data, glm4)
    assert report.ledger is not None
    assert report.ledger.as_dict()["rows"] == 6
    assert {fate: n for fate, n in report.ledger.fates.items() if n} == {
        "trained": 2,
        "too_long": 1,
        "no_answer": 1,
        "malformed": 2,
    }
    assert report.lengths[50] == 9 and report.lengths[100] == 8 + 1200
    assert report.supervised == pytest.approx(9 / (9 + 9 + 1208))


def test_the_report_reads_well_on_the_screen_and_as_json(data, glm4):
    report = check_file(data, glm4)
    assert report.lines() == [
        f"{data}:5:82: E205 message 2 (assistant) is empty; write its content or leave the record out",
        f"{data}:6:2: E105 not valid JSON: cut off in the middle of a record; "
        "the file ends here without a line break",
        f"{data}: 6 rows, 2 malformed",
        'format: messages, because records have "messages" (line 1)',
        "conversations: 4",
        "assistant turns: 3",
        f"duplicate rows: 1, the first at {data}:3, equal to {data}:1",
        "tokens of a conversation: 9 (p50), 1,208 (p90), 1,208 (p95), 1,208 (p99), 1,208 (longest); "
        "the limit is 1,024",
        "learnt: 0.7% of all tokens",
        "6 rows: 2 trained, 1 dropped: too long, 1 dropped: no answer to learn, 2 dropped: malformed",
    ]
    assert json.loads(json.dumps(report.as_dict()))["lengths"]["longest"] == 1208


def test_a_good_file_is_ok(tmp_path):
    (tmp_path / "good.jsonl").write_text(json.dumps(row()), encoding="utf-8")
    assert check_file(tmp_path / "good.jsonl").ok


def test_an_empty_file_is_not_ok(tmp_path, glm4):
    (tmp_path / "empty.jsonl").write_text("\n")
    report = check_file(tmp_path / "empty.jsonl", glm4)
    assert not report.ok and report.rows == 0 and report.lines()


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        check_file(tmp_path / "none.jsonl")
