"""What is written into a page is text there: no element, no script, no address, no turned order of letters."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from finetune.report import write_report, write_texts

INJECTED = {
    "script": "<script>alert(1)</script>",
    "end of pre": "</pre></article></main><script>alert(1)</script>",
    "end of title": "</title><script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "image": "<img src=x onerror=alert(1)>",
    "svg": "<svg onload=alert(1)>",
    "entity": "&lt;script&gt;&#60;script&#62;",
    "comment": "<!-- --><iframe src=//host>",
    "policy": "<meta http-equiv=refresh content='0;url=//host'>",
    "template": "$body ${title} $images {{ x }}",
    "style": "</style><style>*{background:url(//host)}",
    "cdata": "<![CDATA[<script>]]>",
    "order": "\u202etxt.exe\u2066",
}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "nav", "section", "article", "div",
    "strong", "small",
    "span", "p", "h1", "h2", "h3", "h4", "a", "pre", "code", "u", "s", "b", "table", "thead", "tbody", "tr",
    "th", "td", "ul", "li", "details", "summary", "progress", "svg", "rect", "path", "line", "text", "g",
    "circle", "polyline", "img", "footer", "figure", "figcaption", "link",
}  # fmt: skip


class Page(HTMLParser):
    """Its elements, and the attributes that load or run something."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[tuple[str, str]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "srcdoc", "action", "formaction", "data", "xlink:href"):
                self.active.append((name, value or ""))
            if name == "href" and not (value or "").startswith("#"):
                self.active.append((name, value or ""))
            if name == "http-equiv":
                assert value == "Content-Security-Policy"


def filled(value: Any, text: str) -> Any:
    """The same JSON with `text` in the place of every text, keys too."""
    if isinstance(value, dict):
        return {**{key: filled(inner, text) for key, inner in value.items()}, text: text}
    if isinstance(value, list):
        return [filled(inner, text) for inner in value]
    return text if isinstance(value, str) else value


RUN = {
    "model": "m",
    "status": "failed",
    "started": "s",
    "error": "e",
    "exit_code": 2,
    "command": ["a", "b"],
    "config": {"peft_config": {"peft_type": "LORA", "r": 8}, "model_config": {"quantization": "nf4"}},
    "origins": {"peft_config.r": "a.yaml:3"},
    "data": [{"file": "/a/b", "split": "train", "name": "n", "format": "f", "why": "w", "sha256": "x",
              "rows": 3, "ledger": {"rows": 3, "trained": 3, "odd": 1}}],
    "preview": [{"origin": "o", "note": "n", "pieces": [{"text": "t", "trained": True}, {"text": "t\nu"},
                {"text": "p", "picture": {"path": "p", "tokens": 3, "thumbnail": "t"}}]}],
    "result": {"stopped_early": "why", "evaluation": {"scores": {"rouge-l": 1.0}}, "x": "y"},
    "environment": {"platform": "p"},
    "versions": {"torch": "2"},
    "plan": {"steps": 3},
    "before": {"scores": {"rouge-l": 0.5}},
}  # fmt: skip
PREDICTION = {
    "origin": "o",
    "prompt": "<|user|>p",
    "reference": "r",
    "prediction": "q",
    "kind": "text",
    "scores": {"rouge-l": 3.0},
    "images": ["/a/b.png"],
    "tool_call": {"name": True},
}


@pytest.mark.parametrize("kind", INJECTED)
def test_a_report_of_a_strangers_run_is_text(kind: str, tmp_path: Path) -> None:
    text = INJECTED[kind]
    (tmp_path / "run.json").write_text(json.dumps({**filled(RUN, text), "status": "failed"}))
    (tmp_path / "predictions.jsonl").write_text(json.dumps(filled(PREDICTION, text)) + "\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, text: 2.0}) + "\n")
    content = write_report(tmp_path).read_text()
    page = Page(content)
    assert page.tags <= TAGS and page.active == []
    assert "\u202e" not in content and "\u2066" not in content


@pytest.mark.parametrize("kind", INJECTED)
def test_a_page_of_conversations_is_text(kind: str, tmp_path: Path) -> None:
    text = INJECTED[kind]
    write_texts(tmp_path / "x.html", text, filled(RUN["preview"], text))
    content = (tmp_path / "x.html").read_text()
    page = Page(content)
    assert page.tags <= TAGS and page.active == []
    assert "\u202e" not in content


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "https://host/x", "data:text/html,<script>", "//host"]
)
def test_only_pictures_in_the_page_itself_are_shown(address: str, tmp_path: Path) -> None:
    piece = {"text": "p", "picture": {"path": "p", "tokens": 3, "thumbnail": address}}
    write_texts(tmp_path / "x.html", "h", [{"origin": "o", "note": "n", "pieces": [piece]}])
    assert Page((tmp_path / "x.html").read_text()).active == []
