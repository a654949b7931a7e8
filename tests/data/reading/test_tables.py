"""CSV and TSV: rows are records, known by the physical line on which they begin."""

import gzip

import pytest

from finetune.data.reading.records import Malformed, Record, is_hub_id, read_records

HEADER = "prompt,completion\n"


def read(tmp_path, content: bytes | str, name: str = "data.csv") -> list[Record | Malformed]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_records(path))


def pairs(records) -> list[tuple]:
    """(line, prompt, completion) of a record, (line, code) of a mistake."""
    return [(r.line, *r.data.values()) if isinstance(r, Record) else (r.line, r.code) for r in records]


WELL_FORMED = {
    "plain": ("q,a\nr,b\n", [(2, "q", "a"), (3, "r", "b")]),
    "no line break at the end": ("q,a", [(2, "q", "a")]),
    "CRLF": ("q,a\r\nr,b\r\n", [(2, "q", "a"), (3, "r", "b")]),
    "blank lines are skipped but counted": ("\nq,a\n\n\nr,b\n", [(3, "q", "a"), (6, "r", "b")]),
    "a text over several lines": ('"q\n\nq",a\nr,b\n', [(2, "q\n\nq", "a"), (5, "r", "b")]),
    "CRLF inside a text": ('"q\r\nq",a\r\nr,b', [(2, "q\r\nq", "a"), (4, "r", "b")]),
    "a comma and quotes in a text": ('"q, ""q""",a\n', [(2, 'q, "q"', "a")]),
    "quotes within a text without any around it": ('5" wide,a\n', [(2, '5" wide', "a")]),
    "U+2028 does not end a line": ("q\u2028q,a\nr,b", [(2, "q\u2028q", "a"), (3, "r", "b")]),
    "a cell longer than Python's limit": (f"{'q' * 200_000},a\n", [(2, "q" * 200_000, "a")]),
    "nothing but the header": ("", []),
}


@pytest.mark.parametrize(("content", "found"), WELL_FORMED.values(), ids=WELL_FORMED)
def test_rows_are_read_with_the_line_they_begin_on(tmp_path, content, found):
    assert pairs(read(tmp_path, HEADER + content)) == found


@pytest.mark.parametrize("name", ["data.tsv", "data.CSV", "data.csv.gz"])
def test_the_ending_says_how_cells_are_separated_and_packed(tmp_path, name):
    content = (HEADER + "q,a\n").replace(",", "\t" if "tsv" in name else ",").encode()
    assert pairs(read(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name)) == [
        (2, "q", "a")
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (record,) = read(tmp_path, b"\xef\xbb\xbf" + f"{HEADER}q,a\n".encode())
    assert record == Record({"prompt": "q", "completion": "a"}, str(tmp_path / "data.csv"), 2)


MALFORMED = {
    "bytes that are not UTF-8": (b"q,a\nq,\xc4\nr,b\n", [(2, "q", "a"), (3, "E101"), (4, "r", "b")]),
    "a NUL byte": (b"q,a\nq,\0\nr,b\n", [(2, "q", "a"), (3, "E103"), (4, "r", "b")]),
    "too many cells": (b"q,a,c\nr,b\n", [(2, "E117"), (3, "r", "b")]),
    "a lone quote in a quoted cell": (b'"q"q,a\nr,b\n', [(2, "E118"), (3, "r", "b")]),
    "a quote never closed": (b'q,a\n"q,a\nr,b\n', [(2, "q", "a"), (3, "E118")]),
    "a carriage return alone": (b"q\rq,a\nr,b\n", [(2, "E118"), (3, "r", "b")]),
}


@pytest.mark.parametrize(("content", "found"), MALFORMED.values(), ids=MALFORMED)
def test_a_bad_row_is_named_and_reading_goes_on(tmp_path, content, found):
    assert pairs(read(tmp_path, HEADER.encode() + content)) == found


def test_a_table_in_utf16_is_told_as_that(tmp_path):
    assert pairs(read(tmp_path, f"{HEADER}q,a\n".encode("utf-16"))) == [(1, "E102")]


def test_an_empty_file_holds_no_row(tmp_path):
    assert read(tmp_path, "") == []


@pytest.mark.parametrize(
    "name", ["a/b.csv", "a/b.tsv", "a/b.zst", "a/b.jsonl.zst", "a/b.JSONL", "a/b.ndjson.gz"]
)
def test_a_name_with_a_files_ending_is_no_hub_id(name):
    assert not is_hub_id(name)


def test_a_name_without_one_is():
    assert is_hub_id("owner/name") and is_hub_id("owner/name.v2:train")
