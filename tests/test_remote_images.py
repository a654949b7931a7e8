"""Images that data names by an address are fetched where `--allow-remote-images` is given, and nowhere else."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.seeing import draw, make_seeing
from tests.test_cli import Finetune, cli  # noqa: F401


class _Pictures(BaseHTTPRequestHandler):
    content = b""
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    _Pictures.content = draw(tmp_path_factory.mktemp("served") / "cat.png").read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pictures) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(tmp_path_factory.mktemp("seeing") / "model")


CONFIG = """
data_config: {train_file: t.jsonl}
peft_config: {peft_type: LORA, r: 2, target_modules: all-linear}
training_args: {max_steps: 1, output_dir: run, generation_config: {max_new_tokens: 2}}
"""


@pytest.mark.parametrize(
    "command",
    [
        "check t.jsonl",
        "check t.jsonl --model MODEL --config c.yaml",
        "show t.jsonl MODEL",
        "show . MODEL --config c.yaml --batch",
        "init t.jsonl MODEL",
        "train . MODEL c.yaml",
        "eval MODEL t.jsonl --config c.yaml",
        "generate MODEL t.jsonl answers.jsonl --max-new-tokens 2",
    ],
)
def test_nothing_is_fetched_until_it_is_allowed(
    command: str,
    server: str,
    model: Path,
    cli: Finetune,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"{server}/{command.replace(' ', '_')}.png"  # of its own: what was fetched is remembered
    turns = [{"role": "user", "content": "What?", "image": address}, {"role": "assistant", "content": "A cat."}]
    Path("t.jsonl").write_text(json.dumps({"messages": turns}))
    Path("c.yaml").write_text(CONFIG)
    words, before = command.replace("MODEL", str(model)).split(), _Pictures.asked
    refused = cli(*words)
    assert (
        f"{address}: an address, and nothing is fetched; --allow-remote-images allows it"
        in refused.out + refused.err
    )
    assert _Pictures.asked == before
    assert cli(*words, "--allow-remote-images").code == 0
    assert _Pictures.asked > before
