"""A run folder becomes one HTML page: no network, no scripts, for a browser in light or dark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from finetune.disk import encoded, write_atomically
from finetune.errors import ModelError
from finetune.folder import REPORT_FILE
from finetune.report.curves import curves
from finetune.report.markup import Html, element, join, text
from finetune.report.read import RunFiles, read_run_files
from finetune.report.scores import scores_table
from finetune.report.summary import header, key_figures, title
from finetune.report.tables import command, config_table, data_table, facts
from finetune.report.texts import conversations, marked_texts, samples

TEMPLATE = Path(__file__).with_name("page.html")


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all, from whatever the folder holds by now.

    Works for a run that is going on, failed, or lost some of its files; the page says what it lacks.
    Raises ModelError where there is no such folder, StorageError where it cannot be written.
    """
    if not run.is_dir():
        raise ModelError(f"{run}: no such folder; give the folder that `finetune train` wrote")
    path = run / REPORT_FILE
    write_atomically(path, encoded(render(read_run_files(run))))
    return path


def write_texts(path: Path, heading: str, entries: Sequence[Mapping[str, object]]) -> None:
    """Write a page of conversations with their trained tokens marked. Raises StorageError.

    entries: as run.json's `preview` has them (origin, pieces), each with a `note` below its heading; a
    `picture` may bring its `thumbnail`, a data: URL.
    """
    body = join([element("h1", "What is trained"), element("p", heading), marked_texts(entries)])
    write_atomically(path, encoded(_page("What is trained", body, images="data:")))


def render(files: RunFiles) -> str:
    """The page's HTML."""
    sections = [(anchor, name, content) for anchor, name, content in _sections(files) if content is not None]
    links = [element("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    body = join([header(files), element("nav", links) if links else None, key_figures(files)])
    parts = [_section(anchor, name, content) for anchor, name, content in sections]
    return _page(title(files), join([body, *parts]))


def _page(heading: str, body: Html, images: str = "'none'") -> str:
    """`images`: where they may come from, as a Content-Security-Policy says it."""
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=text(heading), body=body, images=images)


def _sections(files: RunFiles) -> list[tuple[str, str, Html | None]]:
    run = files.run
    return [
        ("curves", "Curves", curves(files.metrics)),
        ("scores", "Base against tuned", scores_table(run)),
        ("samples", "Samples", samples(files)),
        ("conversations", "What is trained", conversations(run)),
        ("data", "Data", data_table(run)),
        ("config", "Config", config_table(run)),
        ("facts", "Plan and machine", facts(run)),
        ("command", "Command", command(run)),
    ]


def _section(anchor: str, name: str, content: Html) -> Html:
    return element("section", element("h2", name), content, id=anchor)
