"""Images from a server, a true one of this machine."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune.chat.messages import Image
from finetune.data.images import fetch
from finetune.data.images.access import Access, settled
from finetune.data.images.look import look
from finetune.data.images.pixels import pixels
from finetune.data.images.wrong import WrongImageError
from tests.data.images.files import noise, whole


class Server(ThreadingHTTPServer):
    """Answers by path, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        png = whole()["png"]
        match self.path.split("?")[0]:
            case "/cat.png" | "/a%20cat%C3%A9.png":
                self.answer(200, png)
            case "/moved":
                self.answer(302, b"", Location="/cat.png")
            case "/around":
                self.answer(302, b"", Location="/around")
            case "/to-file":
                self.answer(302, b"", Location="file:///etc/passwd")
            case "/to-ftp":
                self.answer(302, b"", Location="ftp://127.0.0.1/cat.png")
            case "/to-data":
                self.answer(302, b"", Location="data:image/png;base64,AAAA")
            case "/page":
                self.answer(200, b"<!DOCTYPE html>", Content_Type="image/png")
            case "/half":
                self.answer(200, png[:900])
            case "/broken":
                self.answer(200, png[:900], Content_Length=str(len(png)))
            case "/empty":
                self.answer(200, b"")
            case "/silent":
                time.sleep(3)
            case "/slow":
                self.answer(200, b"", Content_Length="1000000")
                self.drip()
            case "/broken-answer":
                self.wfile.write(b"what?\r\n\r\n")
            case _:
                self.answer(404, b"not here")

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def drip(self) -> None:
        try:
            for _ in range(100):
                self.wfile.write(b"x" * 10)
                time.sleep(0.05)
        except OSError:
            pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def refusal(address: str) -> tuple[str, str]:
    with pytest.raises(WrongImageError) as error:
        look(settled(Image(address), Path("/"), Access((), remote=True)))
    assert error.value.reason.startswith(f"{address}: ")
    return error.value.code, error.value.reason.removeprefix(f"{address}: ")


@pytest.mark.parametrize(
    "path", ["/cat.png", "/cat.png?size=1&of=2", "/moved", "/a caté.png", "/a%20cat%C3%A9.png"]
)
def test_an_image_is_fetched_and_kept(server: Server, tmp_path: Path, path: str) -> None:
    picture = look(Image(server.at(path)))
    assert Path(picture.path).is_relative_to(tmp_path / "cache" / "finetune" / "images")
    assert (picture.width, picture.height, pixels(picture).tobytes()) == (48, 32, noise().tobytes())


def test_an_address_is_asked_once(server: Server) -> None:
    first = look(Image(server.at("/cat.png")))
    assert look(Image(server.at("/cat.png"))) is first
    for _ in range(2):
        refusal(server.at("/nothing.png"))
    assert server.asked == ["/cat.png", "/nothing.png"]


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/nothing.png", "E312", "cannot be fetched: the server answers 404 Not Found"),
        ("/around", "E312", "cannot be fetched: the server answers 302"),
        ("/to-file", "E312", "cannot be fetched: the server answers 302"),
        ("/to-ftp", "E312", "cannot be fetched: unknown url type: ftp"),
        ("/to-data", "E312", "cannot be fetched: the server answers 302"),
        ("/broken", "E312", "cannot be fetched: the connection broke after 900 bytes"),
        ("/broken-answer", "E312", "cannot be fetched: "),
        ("/page", "E313", "no image that can be read; it seems to be an HTML page"),
        ("/empty", "E313", "the file is empty (0 bytes)"),
        ("/half", "E314", "the PNG file is damaged or cut off (it ends too early)"),
    ],
)
def test_what_a_server_gives_is_checked(server: Server, path: str, code: str, words: str) -> None:
    found, reason = refusal(server.at(path))
    assert (found, reason[: len(words)]) == (code, words)


def test_a_large_image_is_not_fetched_to_its_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MOST_BYTES", 1000)
    code, reason = refusal(server.at("/cat.png"))
    assert code == "E315" and reason.startswith("more than ")


def test_a_silent_server_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE", 0.2)
    assert refusal(server.at("/silent")) == ("E312", "cannot be fetched: no answer for 0.2 seconds")


def test_a_slow_server_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PATIENCE", 0.2)
    code, reason = refusal(server.at("/slow"))
    assert code == "E312" and "bytes came in 0.2 seconds" in reason


def test_a_server_that_does_not_run_is_a_mistake(server: Server) -> None:
    address = server.at("/cat.png")
    server.shutdown()
    server.server_close()
    assert refusal(address) == ("E312", "cannot be fetched: [Errno 111] Connection refused")


@pytest.mark.parametrize(
    "address", ["http://", "http://[::1", "http://a:b/cat.png", "https://127.0.0.1:0/cat.png"]
)
def test_an_address_that_is_none_is_a_mistake(address: str) -> None:
    code, reason = refusal(address)
    assert code == "E312" and reason.startswith("cannot be fetched: ")
