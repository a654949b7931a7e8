"""What went in: the config and where each value came from, the data and its ledger, versions and machine."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePath

from finetune.redaction import without_secrets
from finetune.report.markup import Html, details, element, join, table
from finetune.report.read import Json, number, rows, section, words

FATES = {
    "trained": "trained",
    "truncated": "trained, cut short",
    "too_long": "too long",
    "no_answer": "no answer",
    "malformed": "malformed",
}
DEFAULT = "default"


def config_table(run: Json) -> Html | None:
    """What somebody set stands open; what stayed at its default unfolds."""
    config = section(run, "config")
    if not config:
        return None
    origins = section(run, "origins")
    values = [(key, value, _origin(origins, key)) for key, value in flattened(config)]
    chosen = [row for row in values if row[2] != DEFAULT]
    rest = [row for row in values if row[2] == DEFAULT]
    head = ["setting", "value", "set by"]
    parts: list[Html] = [table(head, map(_config_row, chosen), class_="config")] if chosen else []
    if rest:
        settings = f"{len(rest)} settings stood at their defaults"
        parts.append(details(settings, table(head, map(_config_row, rest), class_="config")))
    return join(parts)


def flattened(value: Json, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values; lists stay whole."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from flattened(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _origin(origins: Json, key: str) -> str:
    """Of the key, or of the nearest key above it that has one."""
    while key:
        if key in origins:
            return words(origins[key])
        key = key.rpartition(".")[0]
    return DEFAULT


def _config_row(row: tuple[str, object, str]) -> list[Html]:
    key, value, origin = row
    path, _, name = key.rpartition(".")
    return [
        element("th", element("span", f"{path}." if path else "", class_="dim"), name, scope="row"),
        element("td", element("code", yaml_word(value))),
        element("td", PurePath(origin).name, class_="dim small", title=origin),
    ]


def yaml_word(value: object) -> str:
    """A value as the YAML has it, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list) and all(not isinstance(item, list | Mapping) for item in value):
        return "[" + ", ".join(yaml_word(item) for item in value) + "]"
    return words(value) if value != "" else '""'


def data_table(run: Json) -> Html | None:
    """A file per row, and where each of its records went; the counts must add up."""
    files = [entry for entry in rows(run, "data") if isinstance(entry, Mapping)]
    if not files:
        return None
    head = ["file", "rows", *FATES.values(), "adds up"]
    grid = table(head, [_data_row(entry) for entry in files], class_="data")
    notes = [element("li", note) for note in chain.from_iterable(map(_notes, files))]
    return join([grid, element("ul", notes, class_="dim small") if notes else None])


def _counts(ledger: Json) -> dict[str, float]:
    """The ledger's numbers by name, also where they are grouped one level down."""
    flat = {key.rpartition(".")[2]: number(value) for key, value in flattened(ledger)}
    return {name: value for name, value in flat.items() if value is not None}


def _data_row(entry: Json) -> list[Html]:
    counts = _counts(section(entry, "ledger"))
    total = counts.get("rows", number(entry.get("rows")))
    fates = [counts.get(fate) for fate in FATES]
    return [
        element("th", _file_cell(entry, fates, total), scope="row"),
        element("td", _count(total), class_="number"),
        *(element("td", _count(count), class_="number") for count in fates),
        element("td", _sum_check([*fates, counts.get("not_drawn")], total), class_="number"),
    ]


def _file_cell(entry: Json, fates: Sequence[float | None], total: float | None) -> Html:
    how = ": ".join(word for word in (words(entry.get("format")), words(entry.get("why"))) if word)
    return join(
        [
            element("span", f"{words(entry.get('split'))} {words(entry.get('name'))}".strip(), class_="badge"),
            " ",
            element("span", file_name(entry), title=words(entry.get("file"))),
            _fate_bar(fates, total),
            element("span", how, class_="dim small"),
        ]
    )


def file_name(entry: Json) -> str:
    """Without its folders where it is a path; a Hub id stays whole."""
    named = words(entry.get("file"))
    return PurePath(named).name if named.startswith("/") else named


def _fate_bar(fates: Sequence[float | None], total: float | None) -> Html | None:
    """Filled: trained. Hatched: trained, cut short. Empty: dropped."""
    if not total:
        return None
    trained, cut = ((count or 0) / total for count in fates[:2])
    whole = element("rect", x=0.5, y=0.5, width=199, height=7, rx=3, class_="bar base")
    full = element("rect", x=0.5, y=0.5, width=199 * trained, height=7, rx=3, class_="bar tuned")
    part = element("rect", x=0.5 + 199 * trained, y=0.5, width=199 * cut, height=7, class_="bar cut")
    told = element("title", f"{trained:.1%} trained, {cut:.1%} trained but cut short")
    return element(
        "svg", told, whole, full, part if cut else None, viewBox="0 0 200 8", role="img", class_="fates"
    )


def _count(value: float | None) -> Html:
    return element("span", "–" if value is None else f"{value:,.0f}", class_=None if value else "dim")


def _sum_check(fates: Sequence[float | None], total: float | None) -> Html:
    if total is None or all(count is None for count in fates):
        return element("span", "–", class_="dim")
    missing = total - sum(count or 0 for count in fates)
    return (
        element("span", "✓", class_="better")
        if missing == 0
        else element("b", f"✗ {missing:+,.0f}", class_="worse")
    )


def _notes(entry: Json) -> Iterator[str]:
    """What the ledger says beyond the fates."""
    ledger, name = section(entry, "ledger"), file_name(entry)
    for key, count in _counts(ledger).items():
        if key not in FATES and key != "rows" and count:
            yield f"{name}: {key.replace('_', ' ')}: {count:,.0f}"
    digest = words(entry.get("sha256"))
    if digest:
        yield f"{name}: sha256 {digest[:16]}…"


def facts(run: Json) -> Html | None:
    """Plan, base model, result, versions, machine and command, a small table each."""
    blocks = [
        _block("Plan", section(run, "plan")),
        _block("Base model", {"model": run.get("model"), **section(run, "base")}),
        _block("Result", {k: v for k, v in section(run, "result").items() if k != "evaluation"}),
        _block("Versions", {"finetune": run.get("finetune"), **section(run, "versions")}),
        _block("Machine", {"seed": run.get("seed"), **shown_environment(section(run, "environment"))}),
    ]
    present = [block for block in blocks if block is not None]
    return element("div", present, class_="facts") if present else None


def command(run: Json) -> Html | None:
    """As it was typed, without what looks like a password."""
    parts = [words(part) for part in rows(run, "command")]
    if not parts:
        return None
    hidden = words(without_secrets(shlex.join(parts)))
    return element("pre", element("code", hidden), class_="command")


def shown_environment(environment: Json) -> dict[str, object]:
    """Facts of the machine with their values; environment variables by name alone, for values may be secret."""
    shown: dict[str, object] = {}
    names: list[str] = []
    for key, value in environment.items():
        if key.lower() in ("variables", "env", "environ", "environment"):
            names += (
                [str(name).partition("=")[0] for name in value] if isinstance(value, Mapping | list) else []
            )
        elif key.isupper() or key.lower().endswith("_proxy"):
            names.append(key)
        else:
            shown[key] = value
    if names:
        shown["variables set"] = ", ".join(sorted(names))
    return shown


def _block(heading: str, values: Json) -> Html | None:
    pairs = [(key, value) for key, value in flattened(values) if value not in (None, "", [], {})]
    if not pairs:
        return None
    lines = [
        (element("th", key.replace("_", " "), scope="row"), element("td", _fact(value))) for key, value in pairs
    ]
    body = element("tbody", *(element("tr", line) for line in lines))
    return element("div", element("h3", heading), element("table", body), class_="block")


def _fact(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else yaml_word(value)
