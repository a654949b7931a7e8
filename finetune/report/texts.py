"""What the model read and wrote: conversations with their trained tokens marked, and samples of its answers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from finetune.report.markup import Child, Html, details, element, join
from finetune.report.read import Json, RunFiles, number, rows, section, words

MOST_CONVERSATIONS = 6
OPEN_SAMPLES = 6  # the others unfold at a click
MOST_CHARACTERS = 6000  # of one text; the file has the rest
_CONTROL = re.compile(
    r"(<\|[^|<>\s]{1,40}\|>|\[g?MASK\]|<sop>|</?s>|</?think>|</?tool_call>|</?tool_response>)"
)


def conversations(run: Json) -> Html | None:
    """The previewed conversations as the tokenizer saw them, trained pieces underlined on a tint."""
    return marked_texts(rows(run, "preview")[:MOST_CONVERSATIONS])


def marked_texts(entries: Sequence[object]) -> Html | None:
    """Texts with their trained pieces underlined, and those that are cut off struck through."""
    shown = [card for card in map(_conversation, entries) if card is not None]
    if not shown:
        return None
    example = element("u", "underlined on a tint", class_="trained")
    legend = [
        "The model learns to write what is ",
        example,
        " and only reads the rest. ",
        _newline(),
        " marks a trained ",
    ]
    return join([element("p", *legend, "line break.", class_="dim"), *shown])


def _conversation(entry: object) -> Html | None:
    pieces = rows(entry, "pieces") if isinstance(entry, Mapping) else entry
    if not isinstance(pieces, list):
        return None
    known = [piece for piece in pieces if isinstance(piece, Mapping)]
    origin = words(entry.get("origin")) if isinstance(entry, Mapping) else ""
    origin = origin or next((words(piece.get("origin")) for piece in known if piece.get("origin")), "")
    text, left = [], MOST_CHARACTERS
    for piece in known:
        content = words(piece.get("text"))
        text.append(_piece(content[:left], piece) if left else None)
        left = max(0, left - len(content))
    cut = element("p", "… cut here", class_="dim") if not left else None
    return element(
        "article",
        element("h3", _place(origin), title=origin),
        element("p", note, class_="dim") if (note := _note(entry)) else None,
        element("pre", text, class_="tokens") if text else None,
        cut,
        class_="card",
    )


def _place(origin: str) -> str:
    """`train.jsonl:3`, without the folders of an absolute path."""
    return PurePath(origin).name if origin.startswith("/") else origin


def _note(entry: object) -> str:
    return words(entry.get("note")) if isinstance(entry, Mapping) else ""


def _piece(content: str, piece: Json) -> Html:
    if picture := section(piece, "picture"):
        return _picture(content, picture, cut=piece.get("cut") is True)
    parts: list[Child] = []
    trained = piece.get("trained") is True
    for i, part in enumerate(_CONTROL.split(content)):
        if i % 2:
            parts.append(element("span", part, class_="control"))
        elif trained:
            lines = part.split("\n")
            parts += [child for line in lines[:-1] for child in (line, _newline(), "\n")]
            parts.append(lines[-1])
        else:
            parts.append(part)
    if piece.get("cut") is True:
        return element("s", parts, class_="cut")
    return element("u", parts, class_="trained") if trained else element("span", parts)


def _picture(caption: str, picture: Json, *, cut: bool) -> Html:
    """What is said of a picture, beside it where the page brings it."""
    address, tokens = words(picture.get("thumbnail")), number(picture.get("tokens"))
    image = element("img", src=address, alt="") if address.startswith("data:image/") else None
    takes = caption if tokens is None else f"{caption} ({tokens:,.0f} token{'s' * (tokens != 1)})"
    said = element("s", takes, class_="cut") if cut else element("span", takes)
    return element("span", image, said, class_="picture", title=words(picture.get("path")))


def _newline() -> Html:
    return element("span", "↵", class_="newline", aria_label="line break")


def samples(files: RunFiles) -> Html:
    """Prompt, reference and prediction of a few turns, from the worst to the best."""
    cards = [_sample(prediction) for prediction in files.predictions]
    if not cards:
        return element("p", "There is no predictions.jsonl: nothing was evaluated yet.", class_="dim")
    known = files.prediction_count
    which = f"All {known} turns" if len(cards) == known else f"{len(cards)} of {known:,} turns, evenly spread"
    note = element("p", f"{which}, from the worst to the best by ROUGE-L or tool call.", class_="dim")
    rest = cards[OPEN_SAMPLES:]
    return join([note, *cards[:OPEN_SAMPLES], details(f"{len(rest)} more samples", rest) if rest else None])


def _sample(prediction: Json) -> Html:
    origin = words(prediction.get("origin"))
    where = element("span", f"{_place(origin)} · turn {words(prediction.get('turn'))}", title=origin)
    heading = element("h3", where, element("span", _chips(prediction), class_="chips"))
    prompt = details("prompt", element("pre", _clipped(prediction.get("prompt"))), class_="prompt")
    pair = element(
        "div",
        _side("reference", prediction.get("reference")),
        _side("prediction", prediction.get("prediction")),
        class_="pair",
    )
    return element("article", heading, _asked(prediction), _seen(prediction), prompt, pair, class_="card")


def _seen(prediction: Json) -> Html | None:
    """The pictures of the prompt, by their names."""
    paths = [words(path) for path in rows(prediction, "images")]
    names = ", ".join(PurePath(path).name for path in paths)
    return element("p", f"images: {names}", class_="dim", title="\n".join(paths)) if paths else None


def _asked(prediction: Json) -> Html | None:
    """The end of the prompt without its control tokens: what the model was asked last."""
    parts = _CONTROL.split(words(prediction.get("prompt")))
    said = [part.strip() for part in parts[::2] if part.strip()]
    return element("p", said[-1][-300:], class_="asked") if said else None


def _side(name: str, content: object) -> Html:
    shown = _clipped(content) or element("span", "(empty)", class_="dim")
    return element("div", element("h4", name), element("pre", shown))


def _clipped(content: object) -> str:
    text = words(content)
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]}… ({more:,} characters more in predictions.jsonl)"


def _chips(prediction: Json) -> Sequence[Html]:
    chips = [_chip(f"{name} {_score(name, value)}") for name, value in section(prediction, "scores").items()]
    call = section(prediction, "tool_call")
    chips += [_chip(f"{'✓' if call[mark] else '✗'} {mark}", bool(call[mark])) for mark in call]
    if prediction.get("kind") == "tool_call":
        chips.insert(0, _chip("tool call"))
    if prediction.get("finish") == "length":
        chips.append(_chip("✗ cut off at the length limit", False))
    return chips


def _chip(label: str, good: bool | None = None) -> Html:
    return element("span", label, class_="badge" + {None: "", True: " better", False: " worse"}[good])


def _score(name: str, value: object) -> str:
    score = number(value)
    if score is None:
        return "–"
    return f"{score:.3f}" if name.startswith("bleu") else f"{score:.1f}"
