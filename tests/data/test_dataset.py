"""From data_config to examples: every row accounted for, every mistake with its place."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from finetune.config.schema import DataConfig, FileShare
from finetune.data.dataset import Examples, load_conversations, load_examples, resolve_file
from finetune.data.mixture import draw
from finetune.errors import DataError, TrainingError


def row(question="q", answer="a"):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path, rows) -> str:
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


@pytest.fixture
def load(tmp_path, glm4):
    """Write `rows` as train.jsonl (or take `files`) and load them under the given data_config."""

    def load(rows=None, *, files="train.jsonl", max_length=100, **config) -> Examples:
        if rows is not None:
            write(tmp_path / "train.jsonl", rows)
        data_config = DataConfig(train_file=files, **config)
        return load_examples(data_config, data_config.train_file, tmp_path, glm4, max_length=max_length)

    return load


MIXED = [row("q" * 300), row("好", "b"), {"messages": [{"role": "user", "content": "q"}]}, "{", row("c", "d")]


def test_every_row_of_a_file_has_a_fate(load):
    examples = load(MIXED, on_bad_record="skip")
    assert examples.ledger.as_dict() | {"notes": None} == {
        "rows": 5,
        "trained": 2,
        "truncated": 0,
        "too_long": 1,
        "no_answer": 1,
        "malformed": 1,
        "not_drawn": 0,
        "repeated": 0,
        "turns_left_out": 0,
        "notes": None,
    }
    (rejected,) = examples.rejected
    described = json.loads(rejected.as_json())
    assert (described["line"], described["column"]) == (4, 2)
    assert described["reason"].startswith("not valid JSON: ")


def test_examples_lie_in_flat_arrays_and_know_where_they_come_from(load, tmp_path, glm4):
    examples = load(MIXED, on_bad_record="skip")
    assert (len(examples), examples.conversations) == (2, 2)
    assert [examples.origin(i) for i in range(2)] == [f"{tmp_path}/train.jsonl:2", f"{tmp_path}/train.jsonl:5"]
    assert [glm4.tokenizer.decode(e.input_ids[e.loss_mask]) for e in examples] == ["\nb<|user|>", "\nd<|user|>"]
    assert examples.lengths.tolist() == [len(e.input_ids) for e in examples]
    assert examples.supervised.tolist() == [3, 3]
    kinds = (examples.input_ids, examples.loss_mask, examples.offsets, examples.first_example)
    assert [array.dtype for array in kinds] == [np.int32, np.bool_, np.int64, np.int64]
    assert [list(examples.examples_of(i)) for i in range(2)] == [[0], [1]]
    with pytest.raises(IndexError):
        examples[2]


def test_a_conversation_of_several_examples_counts_once(tmp_path, forgetful):
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "t"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b", "reasoning_content": "u"},
    ]
    write(tmp_path / "train.jsonl", [{"messages": turns}, row()])
    config = DataConfig(train_file="train.jsonl")
    examples = load_examples(config, "train.jsonl", tmp_path, forgetful, max_length=100)
    assert (len(examples), examples.conversations) == (3, 2)
    assert examples.first_example.tolist() == [0, 2, 3]
    assert examples.ledger.fates["trained"] == 2


def test_the_account_of_a_file_is_what_run_json_needs(load, tmp_path):
    (account,) = load([row()]).files
    content = (tmp_path / "train.jsonl").read_bytes()
    described = account.as_dict()
    assert described["sha256"] == hashlib.sha256(content).hexdigest()
    assert (described["rows"], described["format"]) == (1, "messages")
    assert described["why"] == 'records have "messages" (line 1)'
    json.dumps(described)


def test_the_first_mistakes_are_told_all_at_once_with_their_places_and_number(load, tmp_path):
    wrong = [{"messages": [{"role": "bot", "content": "x"}]}] * 12
    with pytest.raises(DataError) as refusal:
        load([row(), "{", *wrong, row()])
    lines = str(refusal.value).splitlines()
    assert len(lines) == 11
    assert lines[0].startswith(f"{tmp_path}/train.jsonl:2:2: E105 not valid JSON: ")
    assert lines[9].startswith(f"{tmp_path}/train.jsonl:11:24: E204 message 1 has role 'bot'")
    assert lines[10] == (
        "the first 10 of 13; 13 of 15 records cannot be used: "
        "correct them, or set data_config.on_bad_record: skip"
    )


def test_keys_that_nothing_reads_are_told_of_a_file_also_when_it_was_encoded_before(load, tmp_path):
    rows = [row(), {**row("r"), "topic": "x"}]
    column = len(json.dumps(row("r"))) + 11
    said = f"{tmp_path}/train.jsonl:2:{column}: W530 a record has the key 'topic', which nothing reads"
    assert [load(rows).files[0].remarks for _ in range(2)] == [(said,)] * 2
    assert load(rows).files[0].as_dict()["remarks"] == [said]


def test_what_the_template_cannot_spell_is_a_mistake_of_the_record(load, tmp_path):
    pictured = {
        "messages": [{"role": "user", "content": "q", "image": "x.png"}, {"role": "assistant", "content": "a"}]
    }
    with pytest.raises(
        DataError,
        match=r"train.jsonl:2:15: E301 message 1: the chat template does not print images(.|\n)*2 of 3 records",
    ):
        load([row(), pictured, pictured])
    assert load([row(), pictured], on_bad_record="skip").ledger.fates["malformed"] == 1


def test_overflow_error_names_the_rows_that_are_too_long(load):
    with pytest.raises(
        DataError, match=r"train.jsonl:1:1: E401 longer than 100 tokens .*\n1 of 5 .* truncate-left"
    ):
        load(MIXED, on_bad_record="skip", overflow="error")


def test_nothing_left_to_learn_ends_the_run_and_says_why(load):
    with pytest.raises(TrainingError) as refusal:
        load([row("q" * 200), row("q" * 300), {"messages": [{"role": "user", "content": "q"}]}])
    assert refusal.value.exit_code == 7
    assert "nothing to learn: 3 rows: 0 trained, 2 dropped: too long, 1 dropped: no answer" in str(
        refusal.value
    )
    assert "the limit is 100 tokens; raise max_input_length" in str(refusal.value)


def test_an_empty_file_ends_the_run(load):
    with pytest.raises(TrainingError, match="nothing to learn: 0 rows"):
        load([])


def test_train_on_last_counts_the_turns_it_leaves_out(load):
    """What `combine: true` means: upstream left them out without a word."""
    turns = [{"role": role, "content": role} for role in ("user", "assistant") * 3]
    examples = load([{"messages": turns}, row()], train_on="last", max_length=200)
    assert examples.ledger.turns_left_out == 2
    assert "2 assistant turns are context only" in "\n".join(examples.ledger.lines())


def test_truncation_counts_the_turns_it_cuts_off(load):
    turns = [{"role": role, "content": role * 5} for role in ("user", "assistant") * 3]
    examples = load([{"messages": turns}], overflow="truncate-left", max_length=150)
    assert examples.ledger.fates["truncated"] == 1
    assert examples.ledger.turns_left_out == 1


def test_a_tool_sample_and_a_plain_sample_load_from_one_file(load, glm4):
    """Upstream defect 4: this file crashes it."""
    tools = [{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]
    with_tools = {"messages": [{"role": "system", "content": "", "tools": tools}, *row()["messages"]]}
    examples = load([with_tools, row()], max_length=500)
    first, second = (glm4.tokenizer.decode(example.input_ids) for example in examples)
    assert "## f" in first and "null" not in first
    assert second == "[gMASK]<sop><|user|>\nq<|assistant|>\na<|user|>"


def test_a_format_of_one_file_is_that_of_its_first_good_record(load):
    with pytest.raises(DataError, match=r'train.jsonl:2:1: E202 the record has no "messages"; it has "text"'):
        load([row(), {"text": "x"}])
    assert load([row(), {"text": "x"}], on_bad_record="skip").format == "messages"


def test_the_named_format_is_taken_without_guessing(load):
    rows = [{"text": "x", "messages": 1}]
    assert load(rows, format="text").ledger.fates["trained"] == 1
    with pytest.raises(DataError, match="the messages are a number"):
        load(rows)


def test_plain_text_is_never_dropped(load):
    examples = load([{"text": "好" * 100}], max_length=50)
    assert examples.conversations == 1 and len(examples) == 7
    assert examples.supervised.sum() == 300 + 1  # its bytes and the end, not [gMASK]<sop>
    assert examples.ledger.lines() == ["1 rows: 1 trained"]
    assert load([{"text": "好" * 100}], max_length=50, train_on="last").ledger.turns_left_out == 0


def test_a_mixture_repeats_and_samples_by_weight_and_caps_by_limit(load, tmp_path):
    write(tmp_path / "a.jsonl", [row(f"a{i}") for i in range(4)])
    write(tmp_path / "b.jsonl", [row(f"b{i}") for i in range(10)])
    write(tmp_path / "c.jsonl", [row(f"c{i}") for i in range(10)])
    files = [
        FileShare(file="a.jsonl", weight=2.5),
        FileShare(file="b.jsonl", weight=0.3),
        FileShare(file="c.jsonl", limit=2),
    ]
    examples = load(files=files)
    origins = [examples.origin(i).rsplit("/", 1)[1] for i in range(examples.conversations)]
    assert [sum(o.startswith(name) for o in origins) for name in "abc"] == [10, 3, 2]
    assert [o for o in origins if o.startswith("c")] == ["c.jsonl:1", "c.jsonl:2"]
    assert (examples.ledger.rows, examples.ledger.not_drawn, examples.ledger.repeated) == (24, 15, 6)
    assert len(examples.files) == 3 and examples.sha256.count("+") == 2
    again = load(files=files)
    assert again.input_ids.tobytes() == examples.input_ids.tobytes()


@pytest.mark.parametrize(
    ("count", "weight", "drawn"), [(5, 1, 5), (5, 2, 10), (5, 0.5, 2), (3, 1.4, 4), (0, 3, 0)]
)
def test_a_weight_draws_its_share(count, weight, drawn):
    found = draw(count, weight)
    assert len(found) == drawn
    assert all(found.count(i) - int(weight) in (0, 1) for i in range(count))


def test_samples_to_evaluate_know_their_place(tmp_path):
    write(tmp_path / "dev.jsonl", [row(), "", row("r")])
    config = DataConfig(train_file="none")
    samples = load_conversations(config, "dev.jsonl", tmp_path)
    assert [sample.origin for sample in samples] == [f"{tmp_path}/dev.jsonl:1", f"{tmp_path}/dev.jsonl:3"]
    assert samples[1].conversation.messages[0].content == "r"


def test_samples_to_evaluate_are_refused_as_training_data_is(tmp_path):
    write(tmp_path / "dev.jsonl", [row(), "{"])
    with pytest.raises(DataError, match=r"dev.jsonl:2:2: E105 not valid JSON"):
        load_conversations(DataConfig(train_file="none"), "dev.jsonl", tmp_path)
    skipping = DataConfig(train_file="none", on_bad_record="skip")
    assert len(load_conversations(skipping, "dev.jsonl", tmp_path)) == 1
    write(tmp_path / "text.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match="plain text has no turn to answer"):
        load_conversations(DataConfig(train_file="none"), "text.jsonl", tmp_path)


def test_a_file_is_looked_for_in_the_data_folder_then_as_a_path_then_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", [row()])
    write(tmp_path / "b.jsonl", [row()])
    monkeypatch.chdir(tmp_path)
    assert resolve_file("a.jsonl", tmp_path / "in") == tmp_path / "in" / "a.jsonl"
    assert str(resolve_file("b.jsonl", tmp_path / "in")) == "b.jsonl"
    assert str(resolve_file("owner/name:test", tmp_path / "in")) == "owner/name:test"


def test_a_missing_file_is_told_with_those_that_are_there(tmp_path):
    """Upstream defect 10: a missing file costs a model load first; ours is told by a look at the folder."""
    write(tmp_path / "train.jsonl", [row()])
    with pytest.raises(DataError, match=r"trian.jsonl: no such file in .* did you mean train.jsonl\?"):
        resolve_file("trian.jsonl", tmp_path)
    with pytest.raises(DataError, match=r"it holds train\.jsonl"):
        resolve_file("eval.parquet", tmp_path)


def test_a_folder_and_a_parquet_file_are_data_files_too(load, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "many").mkdir()
    write(tmp_path / "many" / "1.jsonl", [row()])
    pq.write_table(pa.Table.from_pylist([row("p")]), tmp_path / "many" / "2.parquet")
    (tmp_path / "many" / "3.json").write_text(json.dumps([{"instruction": "q", "input": "", "output": "a"}]))
    examples = load(files="many")
    assert examples.conversations == 3
    assert examples.format == "alpaca, messages"
    assert [examples.origin(i).rsplit("/", 1)[1] for i in range(3)] == ["1.jsonl:1", "2.parquet:1", "3.json:1"]


def test_reading_data_loads_no_torch():
    program = (
        "import sys, finetune.data.checking.check, finetune.data.dataset; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
