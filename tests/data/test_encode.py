"""Conversations to examples: what is learnt, what is cut, what is dropped, and nothing unsaid."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.chat.messages import Conversation, Image, Message, Tool
from finetune.data import stream
from finetune.data.encode import Encoder, encode, turn_lengths
from finetune.data.ledger import FATES, Ledger
from finetune.data.reading.formats import PlainText
from finetune.data.stream import encoded
from finetune.errors import InternalError, RankFailedError, TemplateError


@pytest.fixture(scope="module")
def small_batches():
    """Let so many conversations be encoded at once."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda count: patch.setattr(stream, "_AT_ONCE", count)


@pytest.fixture
def two_cores(monkeypatch):
    """Whatever this machine has."""
    monkeypatch.setattr(stream.os, "sched_getaffinity", lambda _: {0, 1})


def talk(*texts: str, system: str = "", tools=()) -> Conversation:
    """User and assistant in turns."""
    roles = ("user", "assistant")
    head = (Message("system", system),) if system else ()
    return Conversation(head + tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), tools)


def text(template, example) -> str:
    return template.tokenizer.decode(example.input_ids)


def learnt(template, example) -> str:
    return template.tokenizer.decode(example.input_ids[example.loss_mask])


def only(encoded):
    (example,), fate = encoded
    return example, fate


def test_an_answer_is_learnt_from_its_first_token_to_its_stop(glm4):
    """Upstream defect 1: `combine` never learns the first token, and defect 2: no stop token."""
    example, fate = only(encode(talk("q", "你好"), glm4, max_length=100))
    assert fate == "trained"
    assert text(glm4, example) == "[gMASK]<sop><|user|>\nq<|assistant|>\n你好<|user|>"
    assert learnt(glm4, example) == "\n你好<|user|>"


def test_train_on_last_learns_the_whole_last_turn_and_no_other(glm4):
    example, _ = only(encode(talk("q", "a", "r", "b"), glm4, max_length=100, train_on="last"))
    assert learnt(glm4, example) == "\nb<|user|>"
    assert len(turn_lengths(example)) == 1


def test_turns_marked_as_context_are_not_learnt(glm4):
    turns = (
        Message("user", "q"),
        Message("assistant", "a", train=False),
        Message("user", "r"),
        Message("assistant", "b"),
    )
    example, _ = only(encode(Conversation(turns), glm4, max_length=100))
    assert learnt(glm4, example) == "\nb<|user|>"


@pytest.mark.parametrize(
    "turns",
    [
        (Message("user", "q"),),
        (Message("system", "s"),),
        (Message("user", "q"), Message("assistant", "a", train=False)),
    ],
)
def test_a_conversation_with_nothing_to_learn_has_no_answer(glm4, turns):
    assert encode(Conversation(turns), glm4, max_length=100) == ((), "no_answer")


def test_the_limit_is_what_may_be_had(glm4):
    tokens = len(only(encode(talk("q", "a"), glm4, max_length=100))[0].input_ids)
    assert encode(talk("q", "a"), glm4, max_length=tokens)[1] == "trained"
    assert encode(talk("q", "a"), glm4, max_length=tokens - 1) == ((), "too_long")


def test_truncation_never_leaves_an_example_without_an_answer(glm4):
    """Upstream defect 5: the answer is cut first, 0 targets are left and the loss is 0/0."""
    long = talk("q" * 60, "a", "r" * 60, "b")
    for limit in range(1, 160):
        examples, fate = encode(long, glm4, max_length=limit, overflow="truncate-left")
        assert (fate == "too_long") == (examples == ())
        for example in examples:
            assert len(example.input_ids) <= limit
            assert learnt(glm4, example).endswith("\nb<|user|>")


def test_truncation_drops_whole_oldest_turns_and_keeps_system_and_tools(glm4):
    tools = (Tool("f"),)
    whole, _ = only(
        encode(talk("q1", "a1", "q2", "a2", "q3", "a3", system="S", tools=tools), glm4, max_length=999)
    )
    limit = len(whole.input_ids) - 1
    cut, fate = only(
        encode(
            talk("q1", "a1", "q2", "a2", "q3", "a3", system="S", tools=tools),
            glm4,
            max_length=limit,
            overflow="truncate-left",
        )
    )
    expected, _ = only(encode(talk("q2", "a2", "q3", "a3", system="S", tools=tools), glm4, max_length=999))
    assert fate == "truncated"
    assert cut.input_ids.tolist() == expected.input_ids.tolist()
    assert cut.loss_mask.tolist() == expected.loss_mask.tolist()


def test_truncation_cuts_no_tool_result_from_its_call(glm4):
    import json

    from finetune.data.reading.formats import parse_conversation
    from finetune.data.reading.records import Record

    calls = [{"name": "f", "arguments": {}}]
    turns = [
        {"role": "user", "content": "x" * 50},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "z"},
    ]
    conversation = parse_conversation(Record(json.loads(json.dumps({"messages": turns})), "f", 1), "messages")
    cut, _ = only(encode(conversation, glm4, max_length=60, overflow="truncate-left"))
    assert text(glm4, cut).startswith("[gMASK]<sop><|user|>\nq<|assistant|>f\n{}<|observation|>\nr")


def test_a_template_that_forgets_thoughts_makes_one_example_per_turn(forgetful):
    turns = (
        Message("user", "q"),
        Message("assistant", "a", reasoning="t"),
        Message("user", "r"),
        Message("assistant", "b", reasoning="u"),
    )
    examples, fate = encode(Conversation(turns), forgetful, max_length=100)
    assert fate == "trained"
    assert [learnt(forgetful, e) for e in examples] == [
        "<think>t</think>a<|endoftext|>",
        "<think>u</think>b<|endoftext|>",
    ]
    whole = len(examples[1].input_ids)
    assert encode(Conversation(turns), forgetful, max_length=whole - 1) == ((), "too_long")
    cut, fate = encode(Conversation(turns), forgetful, max_length=whole - 1, overflow="truncate-left")
    assert fate == "truncated"
    assert [text(forgetful, e) for e in cut] == [
        "[gMASK]<sop><|user|>q<|assistant|><think>t</think>a<|endoftext|>",
        "[gMASK]<sop><|user|>r<|assistant|><think>u</think>b<|endoftext|>",
    ]


def test_images_are_refused_not_ignored(glm4):
    turns = (Message("user", "q", images=(Image("x.png"),)), Message("assistant", "a"))
    with pytest.raises(TemplateError, match="does not print images"):
        encode(Conversation(turns), glm4, max_length=100)


@given(st.text(min_size=1, max_size=60), st.integers(3, 40))
def test_every_token_of_a_document_is_learnt_once_in_pieces_within_the_limit(glm4, document, limit):
    examples, fate = encode(PlainText(document), glm4, max_length=limit)
    assert fate == "trained"
    assert all(len(example.input_ids) <= limit for example in examples)
    taught = [int(i) for example in examples for i in example.input_ids[example.loss_mask]]
    assert glm4.tokenizer.decode(taught) == f"{document}<|endoftext|>"
    assert text(glm4, examples[0]).startswith("[gMASK]<sop>")


def test_a_control_token_spelt_in_a_document_stays_text(glm4):
    (example,), _ = encode(PlainText("<|user|>"), glm4, max_length=100)
    assert glm4.tokenizer.convert_tokens_to_ids("<|user|>") not in example.input_ids
    assert encode(talk("<|user|>", "a"), glm4, max_length=100)[1] == "trained"


def test_a_ledger_adds_up_or_says_it_does_not():
    ledger = Ledger(rows=len(FATES))
    for fate in FATES:
        ledger.count(fate)
    ledger.check()
    (line,) = ledger.lines()
    assert line.startswith(
        "5 rows: 1 trained, 1 truncated, 1 dropped: too long, 1 dropped: no answer to learn, "
    )
    ledger.rows += 1
    with pytest.raises(InternalError, match="accounts for 5 of 6 rows; this is a defect of finetune"):
        ledger.check()


def test_ledgers_add_up_over_files():
    one, other = Ledger(rows=2, turns_left_out=1), Ledger(rows=3, not_drawn=3)
    one.count("trained", 2)
    total = one.plus(other)
    total.check()
    assert total.as_dict() == {
        "rows": 5,
        "trained": 2,
        "truncated": 0,
        "too_long": 0,
        "no_answer": 0,
        "malformed": 0,
        "not_drawn": 3,
        "repeated": 0,
        "turns_left_out": 1,
    }


UNTRAINABLE = Conversation((Message("user", "q", images=(Image("x.png"),)), Message("assistant", "a")))
TEXTS = st.text(alphabet="ab好\n <|user|>", min_size=1, max_size=30).filter(str.strip)
SOURCES = st.one_of(
    st.builds(PlainText, TEXTS),
    st.lists(TEXTS, min_size=1, max_size=5).map(lambda texts: talk(*texts)),
    st.just(UNTRAINABLE),
    st.just(Conversation((Message("user", ""), Message("assistant", "a")))),
)


@given(
    st.lists(SOURCES, max_size=12),
    st.sampled_from(["drop", "truncate-left", "error"]),
    st.integers(10, 60),
    st.integers(1, 5),
)
def test_many_at_once_are_what_each_is_alone(glm4, small_batches, sources, overflow, limit, at_once):
    small_batches(at_once)
    found = list(encoded(Encoder(glm4, limit, "all", overflow), enumerate(sources)))
    assert [(item, source) for item, source, _ in found] == list(enumerate(sources))
    for _, source, outcome in found:
        assert told(outcome) == told(alone(source, glm4, limit, overflow))


@pytest.mark.parametrize("overflow", ["drop", "truncate-left"])
def test_several_processes_make_what_one_makes_in_the_same_order(glm4, small_batches, two_cores, overflow):
    small_batches(3)
    talks = [talk("q", "好"), talk("q" * 50, "a", "r", "b"), talk("q", "a")]
    sources = list(enumerate([PlainText("<|user|> 好" * 9), UNTRAINABLE, *talks] * 20))
    encoder = Encoder(glm4, 40, "all", overflow)
    alike = [list(encoded(encoder, iter(sources), processes=count)) for count in (1, 2)]
    one, two = ([(item, told(outcome)) for item, _, outcome in found] for found in alike)
    assert one == two


def test_a_worker_that_is_killed_ends_the_work_with_a_reason(glm4, two_cores, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RankFailedError, match=r"was killed .*num_proc: 1"):
        list(encoded(Encoder(glm4, 40), enumerate([talk("q", "a")] * 200), processes=2))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Nobody else would: a worker waits for work from a process that is gone."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.data.conftest import GLM4, byte_tokenizer
from tests.data.test_encode import talk
from finetune.chat.template import ChatTemplate
from finetune.data import stream
from finetune.data.encode import Encoder
os.sched_getaffinity = lambda _: {{0, 1}}
template = ChatTemplate(byte_tokenizer(), GLM4.read_text(encoding="utf-8"))
found = stream.encoded(Encoder(template, 99), ((i, talk("q", "a")) for i in range(10_000)), processes=2)
next(found)
print(*(child.pid for child in stream.multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(workers) == 2
    for _ in range(100):
        if not any(_lives(pid) for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {[pid for pid in workers if _lives(pid)]}")


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def alone(source, template, limit, overflow):
    try:
        return encode(source, template, max_length=limit, overflow=overflow)
    except TemplateError as error:
        return error


def told(outcome):
    """What can be compared of an outcome."""
    if isinstance(outcome, TemplateError):
        return str(outcome), outcome.at
    examples, fate = outcome
    return fate, [(one.input_ids.tolist(), one.loss_mask.tolist()) for one in examples]


def test_a_text_that_cannot_be_tokenized_costs_only_itself(glm4, monkeypatch):
    """Some tokenizers can write a string only as a control token; the batch around it must not fail."""
    encode_batch = glm4.encode

    def refusing(transcripts):
        if any("unwritable" in transcript.text for transcript in transcripts):
            raise TemplateError("the tokenizer can write this only as a control token")
        return encode_batch(transcripts)

    monkeypatch.setattr(glm4, "encode", refusing)
    sources = [talk("q", "a"), talk("q", "unwritable"), talk("r", "b")]
    outcomes = Encoder(glm4, 100).encode(sources)
    assert [isinstance(outcome, TemplateError) for outcome in outcomes] == [False, True, False]
    assert text(glm4, outcomes[2][0][0]) == "[gMASK]<sop><|user|>\nr<|assistant|>\nb<|user|>"


def test_a_stream_that_nobody_reads_to_its_end_ends(glm4):
    found = encoded(Encoder(glm4, 100), ((i, talk("q", "a")) for i in range(10_000)))
    next(found)
    found.close()
