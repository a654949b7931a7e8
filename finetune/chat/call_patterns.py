"""Pieces of a template's spelling as regular expressions that forgive what does not matter.

Runs of white space are possessive (`*+`): a model that writes nothing else any more must not cost much.
"""

import re

from finetune.chat.call_probes import IDS, NAME_MARK, NAMES

ANY_NAME = r"[^\s<>{}()\[\]\"'=,|｜]+?"
WORD_KEY = r"[^\s<>{}()\[\]\"'=,:]+?"
ANY_KEY = r"[^\n<>=\"]+?"
_ID_MARK, _DIGITS_MARK = "\2", "\3"
_PARTS = re.compile(r"(\s+|[\1\2\3]|(?<=>)(?=<))")


def pattern(piece: str, *, text_before: bool = False, text_after: bool = False, groups: bool = True) -> str:
    """A regular expression for a piece of spelling: its white space may be wider, or between tags absent.

    Beside a text that stands bare, white space belongs to the text: one such piece as it is, or none.
    `groups`: ids are captured, and a name that comes again must be the same.
    """
    for place, given in enumerate(IDS):
        piece = piece.replace(given, _ID_MARK)
        piece = piece.replace(NAMES[place], NAME_MARK)
    parts = _PARTS.split(piece)
    if not piece.strip():
        return f"(?:{re.escape(piece)})?" if text_before or text_after else _required_space(piece)
    out, ids = [], 0
    for place, part in enumerate(parts):
        if place % 2 == 0:
            out.append(re.escape(part))
        elif part == _ID_MARK:
            out.append("(?P=id)" if ids and groups else f"({'?P<id>' if groups else '?:'}[^\\s<>|｜\\[\\]]+?)")
            ids += 1
        elif part == NAME_MARK:
            out.append("(?P=name)" if groups else "[^\\s<>]+?")
        elif part == _DIGITS_MARK:
            out.append("[0-9]+")
        else:
            at_text = (place == 1 and not parts[0] and text_before) or (
                place == len(parts) - 2 and not parts[-1] and text_after
            )
            out.append(f"(?:{re.escape(part)})?" if at_text else r"\s*+")
    return "".join(out)


def _required_space(piece: str) -> str:
    return "" if not piece else r"[^\S\n]*+\n\s*+" if "\n" in piece else r"\s++"


def agreed(*pieces: str) -> str | None:
    """The one piece they all are, but for numbers (a count of the calls); None where they do not agree."""
    marked = {_neutral(piece) for piece in pieces}
    if len(marked) <= 1:
        return marked.pop() if marked else None
    counted = {re.sub("[0-9]+", _DIGITS_MARK, piece) for piece in marked}
    return counted.pop() if len(counted) == 1 else None


def _neutral(piece: str) -> str:
    for given, name in zip(IDS, NAMES, strict=True):
        piece = piece.replace(given, _ID_MARK).replace(name, NAME_MARK)
    return piece


def end_pattern(piece: str, *, text_before: bool = False) -> str:
    return pattern(piece.rstrip(), text_before=text_before, groups=False) + r"\s*+\Z"
