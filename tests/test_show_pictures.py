"""`finetune show` of data with pictures: each is one thing, told by its path, its size and its tokens."""

import base64
import io
import json
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from finetune.chat.load import load_template
from finetune.chat.messages import Image
from finetune.data.images.look import look
from finetune.data.images.picture import Picture
from finetune.data.images.thumbnail import thumbnail
from finetune.data.preview import View
from finetune.show import print_views, show, summary, write_page
from tests.seeing import draw, make_seeing

CAT = "images/cat.png, 112 x 84: tokens {} to {}"  # 4 x 3 cells of 28 pixels, scaled down to 3 x 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(tmp_path_factory.mktemp("seeing") / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A row with the same picture in two turns, and one without."""
    draw(tmp_path / "images" / "cat.png", 112, 84)
    turns = [
        {"role": "user", "content": "<image>What?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And <image>"},
        {"role": "assistant", "content": "The same."},
    ]
    rows = [{"messages": turns, "images": ["images/cat.png"] * 2}, {"messages": [turns[0], turns[1]]}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def shown(data: Path, model: Path, *, batch: bool = False, **limits: int) -> list[View]:
    config = None
    if limits or batch:
        config = data.parent / "c.yaml"
        files = {"train_file": "train.jsonl", "overflow": "truncate-left"}
        config.write_text(json.dumps({"data_config": files} | limits))
    folder = str(data.parent if batch else data)
    return show(folder, str(model), config, count=1, line=None, batch=batch)[1]


def texts(view: View) -> list[tuple[str, str]]:
    return [(run.kind, run.text) for run in view.runs]


def test_a_picture_is_one_run_that_says_where_its_tokens_stand(data: Path, model: Path) -> None:
    (view,) = shown(data, model)
    assert texts(view) == [
        ("context", "[gMASK]<sop><|user|>\n<|begin_of_image|>"),
        ("context", CAT.format(5, 10)),
        ("context", "<|end_of_image|>What?<|assistant|>\n"),
        ("trained", "A cat.<|user|>"),
        ("context", "\nAnd <|begin_of_image|>"),
        ("context", CAT.format(32, 37)),
        ("context", "<|end_of_image|><|assistant|>\n"),
        ("trained", "The same.<|user|>"),
    ]
    sight = load_template(model).sight
    assert sight is not None
    assert [run.tokens for run in view.runs if run.picture] == [sight.tokens(112, 84)] * 2 == [6, 6]


def test_on_the_screen_a_picture_is_a_line_with_a_word_of_its_own(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_views("", shown(data, model))
    lines = [line for line in capsys.readouterr().out.splitlines() if "cat.png" in line]
    assert lines == [f"  picture       6 │{CAT.format(5, 10)}", f"  picture       6 │{CAT.format(32, 37)}"]


def test_a_picture_of_a_turn_that_is_cut_is_shown_as_cut(data: Path, model: Path) -> None:
    (view,) = shown(data, model, max_input_length=30, max_output_length=2)
    assert [run.kind for run in view.runs if run.picture] == ["cut", "context"]
    assert summary(view).endswith("; cut to 32 tokens")


def test_a_micro_batch_shows_the_pictures_that_are_in_it(data: Path, model: Path) -> None:
    views = shown(data, model, batch=True, max_input_length=30, max_output_length=2)
    assert [run.text for view in views for run in view.runs if run.picture] == [CAT.format(9, 14)]


def test_the_page_has_every_picture_small_and_in_it(data: Path, model: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "out.html", "", shown(data, model))
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    images = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    small = [PIL.Image.open(io.BytesIO(base64.b64decode(image))) for image in images]
    assert [image.size for image in small] == [(112, 84)] * 2
    assert f"{CAT.format(5, 10)} (6 tokens)" in page
    assert "img-src data:;" in page and not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_picture_within_the_record_is_told_by_its_hash(data: Path, model: Path, tmp_path: Path) -> None:
    content = draw(tmp_path / "small.png", 28, 28).read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    turns = [{"role": "user", "content": "What?", "image": url}, {"role": "assistant", "content": "A cat."}]
    data.write_text(json.dumps({"messages": turns}))
    assert texts(shown(data, model)[0])[1] == (
        "context",
        f"image {sha256(content).hexdigest()[:12]}…, 28 x 28: token 5",
    )


def test_a_run_keeps_a_picture_s_path_and_tokens_and_no_pixel(data: Path, model: Path) -> None:
    pieces = shown(data, model)[0].as_dict()["pieces"]
    pictures = [piece["picture"] for piece in pieces if "picture" in piece]
    assert pictures == [{"path": str(data.parent / "images" / "cat.png"), "tokens": 6}] * 2


@pytest.mark.parametrize(
    ("size", "small"),
    [((640, 480), (160, 120)), ((50, 2000), (4, 160)), ((7, 9), (7, 9)), ((9999, 1), (160, 1))],
)
def test_a_thumbnail_is_a_few_kb_and_at_most_160_pixels_long(
    tmp_path: Path, size: tuple[int, int], small: tuple[int, int]
) -> None:
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    PIL.Image.fromarray(((across + down) % 256).astype(np.uint8)).save(tmp_path / "a.png")
    content = thumbnail(looked_at(tmp_path / "a.png"))
    assert PIL.Image.open(io.BytesIO(content)).size == small
    assert len(content) < 6_000


def looked_at(path: Path) -> Picture:
    return look(Image(str(path)))
