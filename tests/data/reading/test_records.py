"""What comes out of files, well-formed and not: every record and mistake with its physical line and column."""

import gzip
import hashlib
import json
import sys

import pytest

from finetune.data.reading.records import Malformed, Record, read_records
from finetune.errors import DataError, MissingLibraryError

GOOD = '{"text": "好"}'


def read(tmp_path, content: bytes | str, name: str = "data.jsonl") -> list[Record | Malformed]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_records(path))


def places(records) -> list[tuple]:
    """(line,) of a record, (line, column, reason) of a mistake."""
    return [(r.line,) if isinstance(r, Record) else (r.line, r.column, r.reason) for r in records]


WELL_FORMED = {
    "a record per line": (f"{GOOD}\n{GOOD}\n", [1, 2]),
    "no line break at the end": (f"{GOOD}\n{GOOD}", [1, 2]),
    "CRLF": (f"{GOOD}\r\n{GOOD}\r\n", [1, 2]),
    "a byte order mark": (b"\xef\xbb\xbf" + f"{GOOD}\n".encode(), [1]),
    "blank lines are skipped but counted": (f"\n{GOOD}\n \t\n\r\n{GOOD}\n\n", [2, 5]),
    "U+2028 does not end a line": ('{"text": "a\u2028b"}\n' + GOOD, [1, 2]),
    "an array": (f"[\n{GOOD},\n\n{GOOD}\n]\n", [2, 4]),
    "an array on one line": (f"[{GOOD}, {GOOD}]", [1, 1]),
    "an array with a byte order mark": (b"\xef\xbb\xbf[\n" + GOOD.encode() + b"]", [2]),
    "an array with CRLF": (f"[\r\n{GOOD},\r\n{GOOD}]", [2, 3]),
    "an empty array": ("[ ]\n", []),
    "objects over several lines": ('{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', [1, 4]),
    "an empty file": ("", []),
    "a surrogate pair": ('{"text": "\\ud83d\\ude00"}\n', [1]),
}


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
@pytest.mark.parametrize(("content", "lines"), WELL_FORMED.values(), ids=WELL_FORMED)
def test_well_formed_files_are_read_whatever_their_ending_says(tmp_path, name, content, lines):
    assert places(read(tmp_path, content, name)) == [(line,) for line in lines]


MALFORMED_LINES = {
    '{"text": "a"': (13, "cut off in the middle"),
    '{"text": "a': (10, "cut off in the middle"),
    '{"text": "a"} x': (15, "text after the end"),
    '{"text": "a"}{"text": "b"}': (14, "text after the end"),
    "{'text': 'a'}": (2, "double quotes"),
    '{"text": "a",}': (14, "not valid JSON"),
    '{"text" "a"}': (9, "expecting ':' delimiter"),
    "nonsense": (1, "not valid JSON"),
    "[1, 2": (6, "cut off"),
    '"text"': (1, "found a string"),
    "17": (1, "found a number"),
    "null": (1, "found null"),
    '{"a": 1, "a": 2}': (10, 'the key "a" stands twice'),
    '{"b": {"好": 1, "x": [{"a": 1}, {"a": 1}], "好": 2}}': (43, 'the key "好" stands twice'),
    '{"a": 1, "\\u0061": 2}': (10, "stands twice"),
    '{"a": NaN}': (7, "NaN is not JSON"),
    '{"a": [1, -Infinity]}': (11, "-Infinity is not JSON"),
    '{"a": 1e999}': (7, "the number 1e999 is too large"),
    '{"a": "x", "b": "\\ud800"}': (17, "surrogate pair"),
    '{"a": "\\udc00\\ud800"}': (7, "surrogate pair"),
    '{"a": "x\ty"}': (9, "the control character U+0009 inside a string"),
    '{"a": "\\x"}': (8, "not valid JSON"),
    '{"a": "x\0"}': (9, "a NUL byte"),
    "[" * 100_000: (1, "nested too deeply"),
    '{"a": ' + "[" * 100 + "]" * 100 + "}": (1, "nested more than 100 levels deep"),
    '{"a": ' + "9" * 5000 + "}": (1, "a number of more than 4,300 digits"),
}


@pytest.mark.parametrize(("line", "place"), MALFORMED_LINES.items(), ids=lambda v: str(v)[:40])
def test_a_malformed_line_is_named_with_its_column_and_reading_goes_on(tmp_path, line, place):
    before, wrong, after = read(tmp_path, f"\n{GOOD}\n{line}\n{GOOD}\n")
    assert (before.line, after.line) == (2, 4)
    assert isinstance(wrong, Malformed)
    assert (wrong.line, wrong.column) == (3, place[0])
    assert place[1] in wrong.reason


def test_a_byte_that_is_not_utf8_is_named_by_its_column_in_characters(tmp_path):
    records = read(tmp_path, f"{GOOD}\n".encode() + '{"text": "好'.encode() + b'\xc4"}\n' + GOOD.encode())
    assert places(records) == [(1,), (2, 12, "the byte 0xC4 is not UTF-8; save the file as UTF-8"), (3,)]


def test_a_file_cut_off_in_its_last_line_is_told_as_that(tmp_path):
    *_, last = read(tmp_path, f'{GOOD}\n{{"text": "a')
    assert last.line == 2 and last.reason.endswith(
        "cut off in the middle of a record; the file ends here without a line break"
    )


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_detected_and_named(tmp_path, name, encoding):
    (wrong,) = read(tmp_path, f"{GOOD}\n{GOOD}\n".encode(encoding), name)
    assert (wrong.line, wrong.column) == (1, 1)
    assert "the file is UTF-16" in wrong.reason and "save it as UTF-8" in wrong.reason


MALFORMED_ARRAYS = {
    "a wrong element between good ones": (
        f'[\n  {GOOD},\n  {{"text": }},\n  {GOOD}\n]',
        [(2,), (3, 12, "not valid JSON: expecting value"), (4,)],
    ),
    "an unterminated string in a pretty-printed array": (
        '[\n  {\n    "text": "a\n  },\n  {\n    "text": "b"\n  }\n]',
        [(3, 15, "not valid JSON: a line break inside a string; write it as an escape like \\n"), (5,)],
    ),
    "a duplicate key": (
        f'[{{"a": 1, "a": 2}}, {GOOD}]',
        [(1, 11, 'the key "a" stands twice in one object'), (1,)],
    ),
    "an element that is no object": (
        f"[\n[1],\n{GOOD}]",
        [(2, 1, "a record is a JSON object in braces; found an array"), (3,)],
    ),
    "a missing comma": (f"[\n{GOOD}\n{GOOD}]", [(2,), (3, 1, "a comma is missing here"), (3,)]),
    "a trailing comma": (f"[{GOOD},\n]", [(1,), (2, 1, "a comma before the closing ]")]),
    "no closing bracket": (
        f"[{GOOD},\n{GOOD}\n",
        [(1,), (2,), (3, 1, "the file ends before its array's ]: it is cut off")],
    ),
    "text after the end": (f"[{GOOD}]\n x", [(1,), (2, 2, "text after the closing ] of the array")]),
    "a file cut off in a record": (
        f'[\n{GOOD},\n{{"text": "a',
        [
            (2,),
            (
                3,
                10,
                "not valid JSON: cut off in the middle of a record; nothing behind this place could be read",
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize(("content", "expected"), MALFORMED_ARRAYS.values(), ids=MALFORMED_ARRAYS)
def test_mistakes_in_an_array_are_named_with_their_line_and_reading_goes_on(tmp_path, name, content, expected):
    assert places(read(tmp_path, content, name)) == expected


def test_a_byte_that_is_not_utf8_spoils_one_element_of_an_array_only(tmp_path):
    content = b'[\n{"text": "\xc4"},\n' + GOOD.encode() + b"]"
    assert places(read(tmp_path, content, "data.json")) == [
        (2, 11, "bytes that are not UTF-8; save the file as UTF-8"),
        (3,),
    ]


def test_a_text_file_is_one_document(tmp_path):
    (record,) = read(tmp_path, "﻿第一行\nsecond line\n".encode(), "book.txt")
    assert record == Record({"text": "第一行\nsecond line\n"}, str(tmp_path / "book.txt"), 1)


def test_a_gzipped_file_is_read_as_what_is_in_it(tmp_path):
    assert places(read(tmp_path, gzip.compress(f"{GOOD}\n{GOOD}".encode()), "data.jsonl.gz")) == [(1,), (2,)]


def zstd(content: bytes) -> bytes:
    """A frame that does not say how long its content is, as a stream has it."""
    from zstandard import ZstdCompressor

    return ZstdCompressor(write_content_size=False).compress(content)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_zst_file_is_read_whatever_the_number_of_its_frames(tmp_path, frames):
    content = zstd(f"{GOOD}\n".encode() * 5000) * frames
    assert len(read(tmp_path, content, "data.jsonl.zst")) == 5000 * frames


@pytest.mark.parametrize("kept", [3, 40, -1])
def test_a_zst_file_cut_short_is_never_taken_for_whole(tmp_path, kept):
    lines = "".join(
        f'{{"text": "{hashlib.sha256(bytes([i % 256, i // 256])).hexdigest()}"}}\n' for i in range(3000)
    )
    found = read(tmp_path, zstd(lines.encode())[:kept], "data.jsonl.zst")
    assert (found[-1].code, found[-1].line) == ("E114", len(found))
    assert "the zst file is damaged from here on: the file ends in the middle" in found[-1].reason


def test_a_zst_file_that_is_none_is_malformed(tmp_path):
    (wrong,) = read(tmp_path, GOOD, "data.jsonl.zst")
    assert (wrong.line, wrong.code) == (1, "E114")


def test_a_zst_file_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingLibraryError, match=r"data.jsonl.zst needs zstandard: pip install '.*\[zstd\]'"):
        read(tmp_path, b"x", "data.jsonl.zst")


def test_a_damaged_gzip_file_is_malformed_and_no_traceback(tmp_path):
    damaged = gzip.compress(f"{GOOD}\n".encode() * 1000)[:-20]
    assert "the gz file is damaged" in read(tmp_path, damaged, "data.jsonl.gz")[-1].reason


def test_a_folder_is_its_data_files_in_the_order_of_their_names(tmp_path):
    for name in ("b.jsonl", "a.json", "c.txt", "README.md", ".hidden.jsonl"):
        (tmp_path / name).write_text(GOOD)
    names = [record.source.rsplit("/", 1)[1] for record in read_records(tmp_path)]
    assert names == ["a.json", "b.jsonl"]  # a text beside other data is a note


def test_a_folder_without_data_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="no data file in this folder"):
        read_records(tmp_path)


def test_a_file_that_is_not_there_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.jsonl")


def test_an_ending_nobody_reads_is_refused_naming_those_that_are(tmp_path):
    with pytest.raises(DataError, match=r"'\.xlsx' are not read; expected \.jsonl"):
        read(tmp_path, "x", "data.xlsx")


def test_rows_of_parquet_are_numbered_and_lose_what_arrow_filled_in(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"messages": [{"role": "user", "content": "a", "tools": None}], "extra": {"x": None, "y": 0}},
        {"messages": [{"role": "user", "content": "b", "tools": [{"name": "f", "only": {"here": 1}}]}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    first, second = read_records(tmp_path / "data.parquet")
    assert (first.line, second.line) == (1, 2)
    assert first.data == {"messages": [{"role": "user", "content": "a"}], "extra": {"y": 0}}
    assert "extra" not in second.data


def test_a_damaged_parquet_file_is_malformed(tmp_path):
    (wrong,) = read(tmp_path, "PAR1 not really", "data.parquet")
    assert "cannot be read as parquet" in wrong.reason


def test_mistakes_print_as_file_line_column(tmp_path):
    (wrong,) = read(tmp_path, "x")
    assert str(wrong) == f"{tmp_path / 'data.jsonl'}:1:1: E104 not valid JSON: expecting value"


HUGE = {
    "one string on one line": ("a.jsonl", '{"text": "', "好a", '"}', lambda n: (1, 0)),
    "one string on one line, cut off": ("a.jsonl", '{"text": "', "ab", "", lambda n: (0, 1)),
    "one array on one line": ("a.json", "[{}", ', {"text": "好"}', "]", lambda n: (n + 1, 0)),
    "an array on one line of records that are none": ("a.json", "[{}", ", 3, {}", "]", lambda n: (n + 1, n)),
    "an array of records with a key twice": (
        "a.json",
        "[{}",
        ',\n{"a": 1, "a": "好好好好好好好好好好好"}',
        "]",
        lambda n: (1, n),
    ),
    "turns on one line": ("a.jsonl", '{"messages": [0', ', {"role": "user"}', "]}", lambda n: (1, 0)),
}


@pytest.mark.parametrize(("name", "start", "part", "end", "found"), HUGE.values(), ids=HUGE)
def test_a_text_of_800_000_characters_is_read_to_its_end(tmp_path, name, start, part, end, found):
    """What is quadratic anywhere would take minutes here."""
    count = 800_000 // len(part)
    (tmp_path / name).write_text(start + part * count + end, encoding="utf-8")
    read = list(read_records(tmp_path / name))
    good = sum(isinstance(one, Record) for one in read)
    assert (good, len(read) - good) == found(count)


def test_line_numbers_hold_far_into_a_file(tmp_path):
    lines = [json.dumps({"text": "字" * (i % 50)}) for i in range(30_000)]
    lines[23_456] = "{"
    wrong = [record for record in read(tmp_path, "\n".join(lines)) if isinstance(record, Malformed)]
    assert [record.line for record in wrong] == [23_457]


def test_a_missing_file_in_a_folder_that_is_there_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="two/none: no such file"):
        read_records("two/none")
