"""How a checkpoint cuts pictures: our arithmetic is that of transformers' image processors, and is kept."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoImageProcessor

from finetune.chat.load import load_template
from finetune.chat.sight import Sight, read_sight
from finetune.errors import ModelError
from tests.seeing import draw, make_seeing

KINDS = ("Glm4vImageProcessor", "Glm46VImageProcessor", "Qwen2VLImageProcessor")
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small": {"size": {"shortest_edge": 3136, "longest_edge": 50_000}, "patch_size": 14},
    "patch 16": {"size": {"shortest_edge": 65_536, "longest_edge": 1_000_000}, "patch_size": 16},
    "one patch a token": {"merge_size": 1, "size": {"shortest_edge": 784, "longest_edge": 100_000}},
}


def checkpoint(folder: Path, settings: dict[str, Any], *, joint: bool = False) -> Path:
    """The two JSON files that `read_sight` reads."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"image_token_id": 7}')
    name, content = (
        ("processor_config.json", {"image_processor": settings})
        if joint
        else ("preprocessor_config.json", settings)
    )
    (folder / name).write_text(json.dumps(content))
    return folder


def sight_of(folder: Path) -> Sight:
    sight = read_sight(folder)
    assert sight is not None
    return sight


@pytest.mark.parametrize("joint", [False, True], ids=["a file of its own", "in processor_config.json"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_counted_as_the_image_processor_counts_them(
    kind: str, settings: str, joint: bool, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "m", {"image_processor_type": kind, **SETTINGS[settings]}, joint=joint)
    sight, processor = sight_of(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert sight.token == 7
    draws = random.Random(0)
    for _ in range(400):
        width, height = (int(2 ** draws.uniform(0, 13)) for _ in "ab")
        try:
            expected = processor.get_number_of_image_patches(height, width, {})
        except ValueError:
            with pytest.raises(ValueError, match="one side is more than 200 times the other"):
                sight.patches(width, height)
            continue
        rows, columns = sight.patches(width, height)
        assert rows * columns == expected, (width, height)
        assert sight.tokens(width, height) * sight.merge**2 == expected


def test_older_bounds_of_qwen_are_read(tmp_path: Path) -> None:
    settings = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "min_pixels": 3136,
        "max_pixels": 12_845_056,
    }
    sight = sight_of(checkpoint(tmp_path / "m", settings))
    assert (sight.least, sight.most) == (3136, 12_845_056)


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({}, {"image_processor_type": "Glm4vImageProcessor"}),
        ({"image_token_id": 7}, {}),
        ({"image_token_id": 7}, {"image_processor_type": "CLIPImageProcessor"}),
    ],
    ids=["text model", "no processor", "a processor that cuts otherwise"],
)
def test_what_is_not_known_sees_nothing(
    config: dict[str, Any], processor: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert read_sight(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"image_processor_type": "Glm4vImageProcessor", "patch_size": "wide"}',
        '{"image_processor_type": "Glm4vImageProcessor", "do_resize": false}',
    ],
)
def test_damaged_files_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"image_token_id": 7}')
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"preprocessor_config.json: (damaged|cannot be used)"):
        read_sight(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "size",
            {"height": 224, "width": 224},
            r"size has height, width; expected shortest_edge and longest_edge",
        ),
        ("size", {"shortest_edge": 2000, "longest_edge": 1000}, r"2,000 pixels at least, and 1,000 at most"),
        ("patch_size", 16, r"patch_size is 16, and the model was made for 14 \(vision_config.patch_size\)"),
        (
            "merge_size",
            1,
            r"merge_size is 1, and the model was made for 2 \(vision_config.spatial_merge_size\)",
        ),
        ("temporal_patch_size", 1, r"temporal_patch_size is 1, and the model was made for 2"),
        ("patch_size", 0, r"patch_size is 0; expected a whole number, 1 or more"),
        ("patch_size", "14", r"patch_size is '14'; expected a whole number, 1 or more"),
    ],
)
def test_settings_that_cannot_be_right_are_told_before_the_model_is_loaded(
    name: str, value: object, told: str, tmp_path: Path
) -> None:
    file = make_seeing(tmp_path) / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(ModelError, match=rf"preprocessor_config.json: cannot be used: .*{told}"):
        read_sight(tmp_path)


@pytest.mark.parametrize("family", ["glm4v", "qwen2_5_vl"])
def test_fewer_tokens_for_an_image_stay_with_the_checkpoint(family: str, tmp_path: Path) -> None:
    base = make_seeing(tmp_path / "base", family)
    template = load_template(base, max_image_tokens=5)
    assert template.sight is not None
    assert [template.sight.tokens(*size) for size in ((56, 28), (70, 90), (900, 900), (28, 2000))] == [
        2,
        2,
        4,
        18,
    ]
    template.save(tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").unlink(missing_ok=True)
    again = load_template(tmp_path / "adapter", model=base)
    assert again.sight == template.sight
    processor = AutoImageProcessor.from_pretrained(tmp_path / "adapter", backend="pil")
    from PIL import Image

    with Image.open(draw(tmp_path / "a.png", 900, 900)) as picture:
        grid = processor(images=[picture], return_tensors="pt")["image_grid_thw"]
    assert grid.tolist() == [[1, 4, 4]]


def test_a_processor_that_is_not_changed_is_copied_byte_for_byte(tmp_path: Path) -> None:
    base = make_seeing(tmp_path / "base")
    load_template(base).save(tmp_path / "copy")
    name = "preprocessor_config.json"
    assert (tmp_path / "copy" / name).read_bytes() == (base / name).read_bytes()
    load_template(base, max_image_tokens=10**6).save(tmp_path / "larger")
    assert (tmp_path / "larger" / name).read_bytes() == (base / name).read_bytes()
