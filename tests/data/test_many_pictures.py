"""What many pictures cost: bytes of the album and memory of the process that encodes, never pixels."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data.album import AlbumMaker
from finetune.data.images.picture import Picture
from tests.seeing import draw, make_seeing

FEW, MANY = 200, 2_000
SIDE = 48  # pixels
GROWTH = 6 * 2**20
"""Bytes, of which 3 MB are needed. The pixels of the other pictures would be 12 MB, their patches far more."""

ENCODE = """
import sys
from pathlib import Path
from finetune.chat.load import load_template
from finetune.config.schema import DataConfig
from finetune.data.dataset import load_examples

def most_resident():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

template = load_template(sys.argv[2])
for file in sys.argv[3:]:
    examples = load_examples(DataConfig(train_file=file), file, Path(sys.argv[1]), template, max_length=100)
    print(len(examples.album), most_resident())
"""


def test_a_row_of_an_album_is_a_path_and_a_few_numbers() -> None:
    maker = AlbumMaker()
    paths = [f"/data/of/somebody/pictures/of/2026/november/{number:08}/cat.jpeg" for number in range(1_000)]
    for number, path in enumerate(paths):
        maker.add([Picture(path, f"{number:064x}", 1_152, 864)])
    assert {len(path) for path in paths} == {61}
    assert sum(array.nbytes for array in maker.made().arrays().values()) < 160 * len(paths)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="what a process held at most is read from /proc")
def test_encoding_many_pictures_needs_little_more_memory_than_encoding_a_few(tmp_path: Path) -> None:
    model = make_seeing(tmp_path / "model")
    for number in range(MANY):
        draw(tmp_path / f"{number}.png", SIDE, SIDE, seed=number)
    for count in (FEW, MANY):
        rows = [
            {"instruction": "What <image>?", "output": "noise", "images": [f"{number}.png"]}
            for number in range(count)
        ]
        (tmp_path / f"{count}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-c", ENCODE, str(tmp_path), str(model), f"{FEW}.jsonl", f"{MANY}.jsonl"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [int(pictures) for pictures in said[::2]] == [FEW, MANY]
    few, many = (int(most) for most in said[1::2])
    assert many - few < GROWTH
    print(f"{many - few:,} bytes more for {MANY - FEW:,} pictures more")  # pytest -rP shows it
