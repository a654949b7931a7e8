"""HTML and SVG from values. Text is escaped by construction: only an `Html` is put into a page as it stands."""

import re
from collections.abc import Iterable
from html import escape

from finetune.printing import visibly_turned

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Markup that is already safe. Only this module and the page's template make one from text."""

    __slots__ = ()


Child = str | Html | None


def element(tag: str, *children: Child | Iterable[Child], **attributes: str | float | None) -> Html:
    """`element("td", 5, class_="number")`; an attribute that is None is left out, `_` in names means `-`."""
    opening = "".join(_attribute(name, value) for name, value in attributes.items() if value is not None)
    return Html(f"<{tag}{opening}>{join(children)}</{tag}>")


def join(children: Iterable[Child | Iterable[Child]]) -> Html:
    """Children one after the other, text among them escaped."""
    return Html("".join(_child(child) for child in children))


def _child(child: Child | Iterable[Child]) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    return text(child) if isinstance(child, str) else join(child)


def _attribute(name: str, value: str | float) -> str:
    shown = value if isinstance(value, str) else f"{value:.6g}"
    return f' {name.rstrip("_").replace("_", "-")}="{text(shown)}"'


def text(content: str) -> Html:
    """Any string as a page can show it: escaped, what cannot be printed replaced by U+FFFD.

    What would turn the order of letters is spelt out.
    """
    return Html(escape(visibly_turned(_UNPRINTABLE.sub("\ufffd", content))))


def details(summary: str, *children: Child | Iterable[Child], class_: str | None = None) -> Html:
    """A part that unfolds at a click, without a script."""
    return element("details", element("summary", summary), *children, class_=class_)


def table(head: Iterable[Child], rows: Iterable[Iterable[Html]], *, class_: str | None = None) -> Html:
    """`rows` are made of td and th elements; a wide table scrolls by itself, not with the page."""
    heading = element("thead", element("tr", *(element("th", title, scope="col") for title in head)))
    body = element("tbody", *(element("tr", row) for row in rows))
    return element("div", element("table", heading, body, class_=class_), class_="scroll", tabindex="0")
