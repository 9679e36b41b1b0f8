"""The generation server over real sockets: who may ask, how much, how many at a time, and what stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from serving import WAIT_S, StubGenerator, running, view, wait_until

from scenegen.client import SceneClient, ServerUnreachable
from scenegen.scene import InvalidInput
from scenegen.server import Limits, create_app, serve
from scenegen.wire import MEDIA_TYPE, EventReader, Failure, encode_request

TEST_FOLDER = Path(__file__).parent
MODEL_FOLDER = TEST_FOLDER.parent / "model"


def http(address: str, token: bytes | None = None) -> httpx.Client:
    headers = {"Authorization": b"Bearer " + token} if token else {}
    transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"))
    return httpx.Client(transport=transport, base_url="http://server", headers=headers, timeout=WAIT_S)


def post(client: httpx.Client, *views: Any, ids: list[int] | None = None, **kwargs: Any) -> httpx.Response:
    body = b"".join(encode_request(views or (view(),), 1, ids, compact=False))
    return client.post("/v1/scenes", content=body, headers={"Content-Type": MEDIA_TYPE} | kwargs.pop("headers", {}))


def post_in_chunks(client: httpx.Client, *views: Any) -> httpx.Response:
    """Without a Content-Length to judge by: the bytes are counted as they come."""
    frames = encode_request(views, 1, None, compact=False)
    return client.post("/v1/scenes", content=(frame for frame in frames), headers={"Content-Type": MEDIA_TYPE})


def test_health_and_ready_tell_of_loading_and_of_failure(tmp_path: Path) -> None:
    go = threading.Event()

    def load() -> StubGenerator:
        assert go.wait(WAIT_S)
        raise InvalidInput("weights/tiny/flow.safetensors is cut short: fetch it again")

    app = create_app(load)
    server = uvicorn.Server(uvicorn.Config(app, uds=str(tmp_path / "s"), http="h11", ws="none", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        with http(f"unix:{tmp_path / 's'}") as client:
            assert client.get("/v1/health").json()["status"] == "ok"
            answer = client.get("/v1/ready")
            assert (answer.status_code, answer.json()["state"]) == (503, "loading")
            assert "being loaded" in post(client).json()["error"]
            go.set()
            wait_until(lambda: client.get("/v1/ready").json()["state"] == "failed")
            answer = post(client)
            assert answer.status_code == 503 and "cut short" in answer.json()["error"]
            assert "Retry-After" not in answer.headers
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


def test_only_the_right_token_opens(tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s", token="secret") as address:
        for token in (None, b"wrong", b"secre", b"secret2", b"geh\xe9im"):
            with http(address, token) as client:
                answer = post(client)
                assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
                assert "token" in answer.json()["error"] and answer.json()["hint"]
                assert client.get("/v1/ready").status_code == 401
                assert client.get("/v1/health").status_code == 200
        with http(address, b"secret") as client:
            assert client.get("/v1/ready").status_code == 200
            assert post(client).status_code == 200


@pytest.mark.parametrize(
    ("send", "word"),
    [
        (lambda c: post(c, view(size=(40, 300))), "pixels, the limit is 10000"),
        (lambda c: post(c, *[view(size=(10, 12))] * 4), "4 views, the limit is 3"),
        (lambda c: post(c, ids=[1, 2, 3, 4, 5]), "5 objects, the limit is 4"),
        (lambda c: post(c, view((1, 2, 3, 4, 9))), "5 objects, the limit is 4"),
        (lambda c: post(c, *[view(size=(99, 99))] * 2), "over 0 MiB (150000 bytes)"),
        (lambda c: post_in_chunks(c, *[view(size=(99, 99))] * 2), "over 0 MiB (150000 bytes)"),
    ],
)
def test_too_large(tmp_path: Path, send: Callable[[httpx.Client], httpx.Response], word: str) -> None:
    limits = Limits(size=150_000, pixels=10_000, views=3, objects=4)
    with running(StubGenerator(), tmp_path / "s", limits=limits) as address, http(address) as client:
        answer = send(client)
        assert answer.status_code == 413 and answer.json()["hint"]
        assert word in answer.json()["error"]
        assert post(client).status_code == 200, "the server goes on"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as address, http(address) as client:
        answer = client.post("/v1/scenes", content=b"\x80\x04pickle" * 10, headers={"Content-Type": MEDIA_TYPE})
        assert answer.status_code == 422 and "not a scenegen frame" in answer.json()["error"]
        answer = client.post("/v1/scenes", json={"views": []})
        assert answer.status_code == 415 and MEDIA_TYPE in answer.json()["hint"]
        assert client.get("/v1/scenes").status_code == 405


def test_a_request_that_does_not_arrive_gives_its_place_back(tmp_path: Path) -> None:
    limits = Limits(upload_s=0.2, waiting=0)
    head = (
        f"POST /v1/scenes HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 999\r\n\r\nSG".encode()
    )
    with running(StubGenerator(), tmp_path / "s", limits=limits) as address:
        for wait_for_answer in (True, False):
            with socket.socket(socket.AF_UNIX) as slow:
                slow.settimeout(WAIT_S)
                slow.connect(address.removeprefix("unix:"))
                slow.sendall(head)
                assert not wait_for_answer or b" 408 " in slow.recv(4096)
        with http(address) as client:
            wait_until(lambda: post(client).status_code == 200)


def open_stream(client: httpx.Client) -> Any:
    body = b"".join(encode_request([view()], 1, None, compact=False))
    return client.stream("POST", "/v1/scenes", content=body, headers={"Content-Type": MEDIA_TYPE})


def test_ready_says_how_busy_the_server_is(tmp_path: Path) -> None:
    class OnGpu(StubGenerator):
        def device_memory(self) -> tuple[int, int]:
            return 3 << 30, 8 << 30

    stub = OnGpu(steps=1)
    with running(stub, tmp_path / "s", limits=Limits(waiting=2)) as address, http(address) as client:
        idle = client.get("/v1/ready").json()
        assert (idle["working"], idle["waiting"], idle["places"]) == (False, 0, 2)
        assert idle["device_memory"] == [3 << 30, 8 << 30]
        with open_stream(client), http(address) as second, open_stream(second):
            wait_until(lambda: client_sees(address, working=True, waiting=1))
        stub.step.release(2)
        wait_until(lambda: client_sees(address, working=False, waiting=0))


def first_event(chunks: Iterator[bytes]) -> Any:
    """What comes after any signs of life, in however many pieces."""
    reader = EventReader()
    return next(event for chunk in chunks for event in reader.feed(chunk))


def client_sees(address: str, **load: object) -> bool:
    with http(address) as client:
        answer = client.get("/v1/ready").json()
        return all(answer[name] == value for name, value in load.items())


def test_one_at_a_time_a_short_queue_then_busy(tmp_path: Path) -> None:
    generator = StubGenerator(steps=1)
    with running(generator, tmp_path / "s", limits=Limits(waiting=1)) as address, http(address) as client:
        with open_stream(client) as first:
            assert generator.started.acquire(timeout=WAIT_S)
            with open_stream(client) as second:
                chunks = second.iter_raw()
                assert first_event(chunks).stage == "queued"
                answer = post(client)
                assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
                assert "waiting" in answer.json()["error"]
                assert not generator.started.acquire(blocking=False), "the second must wait for the first"
            # The second has gone away while it waited: its place is free, and it is never started.
            with open_stream_when_free(client) as third:
                generator.step.release(2)
                assert first.read().count(b"glTF") == 3
                assert third.read().count(b"glTF") == 3
        assert generator.taken == [0, 0]


@contextmanager
def open_stream_when_free(client: httpx.Client) -> Iterator[httpx.Response]:
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        with open_stream(client) as response:
            if response.status_code == 200:
                yield response
                return
        tick.wait(0.02)
    raise AssertionError("no place became free")


def test_a_closed_connection_stops_the_work_before_the_next_step(tmp_path: Path) -> None:
    generator = StubGenerator(steps=5)
    with running(generator, tmp_path / "s") as address, http(address) as client:
        with open_stream(client) as response:
            generator.step.release()
            chunks = response.iter_raw()
            assert first_event(chunks).stage == "structure"
            assert not generator.sees_cancel()
        wait_until(generator.sees_cancel)
        generator.step.release()
        assert generator.ended.acquire(timeout=WAIT_S)
        assert generator.was_cancelled and generator.taken == [0]
        generator.steps = 0
        assert b"glTF" in post(client).content, "the next request is served"


def test_a_failure_is_an_event_and_the_server_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = StubGenerator(failure=RuntimeError("CUDA out of memory"))
    with running(generator, tmp_path / "s") as address, http(address) as client:
        (failure,) = EventReader().feed(post(client).content)
        assert isinstance(failure, Failure) and failure.kind == "GenerationFailed"
        assert "CUDA out of memory" in failure.message
        assert "a request failed" in caplog.text
        generator.failure = None
        (failure,) = EventReader().feed(post(client, view(())).content)
        assert failure == Failure("InvalidInput", "view 0 masks has no instances: segment the image first")
        assert b"glTF" in post(client).content


def test_a_silent_generation_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scenegen.server import app
    from scenegen.wire import ALIVE

    monkeypatch.setattr(app, "ALIVE_S", 0.02)
    generator = StubGenerator(steps=1)
    with running(generator, tmp_path / "s") as address, http(address) as client, open_stream(client) as response:
        chunks = response.iter_raw()
        assert next(chunks).startswith(ALIVE) and next(chunks).startswith(ALIVE)
        generator.step.release()
        assert b"".join(chunks).count(b"glTF") == 3


@pytest.mark.parametrize(
    ("listen", "options", "word"),
    [
        ("http://0.0.0.0:0", {"token": "x"}, "not encrypted"),
        ("https://0.0.0.0:0", {"certificate": "c", "key": "k"}, "no token"),
        ("https://[::]:0", {"certificate": "c", "key": "k"}, "no token"),
        ("https://127.0.0.1:0", {}, "--certificate and --key"),
        ("https://127.0.0.1:0", {"certificate": "missing.pem", "key": "missing.pem"}, "not a usable certificate"),
        ("http://127.0.0.1:0", {"certificate": "c", "key": "k"}, "does not use a certificate"),
        ("0.0.0.0:80", {}, "not a server address"),
        ("http://127.0.0.1", {}, "lacks its port"),
        ("unix:relative.sock", {}, "must be absolute"),
        ("unix:/tmp/" + "x" * 200, {}, "at most 107 bytes"),
        ("unix:/nowhere/at/all.sock", {}, "cannot make the socket"),
    ],
)
def test_addresses_that_are_refused(listen: str, options: dict[str, str], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        serve(StubGenerator, listen, **options)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "scenegen.sock"
    precious.write_text("thesis")
    with pytest.raises(InvalidInput, match="not a socket"):
        serve(StubGenerator, f"unix:{precious}")
    assert precious.read_text() == "thesis"


SERVE = """
import json, sys
listen, folder, steps, released, options = sys.argv[1:]
sys.path.insert(0, folder)
from serving import StubGenerator
from scenegen.server import serve
serve(lambda: StubGenerator(int(steps), int(released)), listen, **json.loads(options))
"""


def start_server(listen: str, steps: int = 0, released: int = 0, **options: str) -> subprocess.Popen[bytes]:
    """A server process over a stub that takes `released` of its steps and then stands still."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TEST_FOLDER.parent), str(MODEL_FOLDER)])}
    arguments = [listen, str(TEST_FOLDER), str(steps), str(released), json.dumps(options)]
    return subprocess.Popen([sys.executable, "-c", SERVE, *arguments], env=environment)


def wait_ready(address: str, process: subprocess.Popen[bytes], **options: str) -> None:
    client = SceneClient(address, **options)

    def is_ready() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            return client.ready().state == "ready"
        except ServerUnreachable:
            return False

    wait_until(is_ready)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_job_stops_cleanly(tmp_path: Path, stop: signal.Signals) -> None:
    path = tmp_path / "s"
    process = start_server(f"unix:{path}", steps=1)
    wait_ready(f"unix:{path}", process)
    assert path.stat().st_mode & 0o777 == 0o600
    with http(f"unix:{path}") as client, open_stream(client) as response:
        process.send_signal(stop)
        (failure,) = EventReader().feed(response.read())
        assert isinstance(failure, Failure) and failure.kind == "ServerStopping"
    assert process.wait(WAIT_S) == 0
    assert not path.exists()


def test_a_socket_in_use_is_kept_and_a_dead_servers_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(InvalidInput, match="another server listens"):
            serve(StubGenerator, f"unix:{path}")
        assert path.is_socket()
    assert path.is_socket(), "as a server leaves it that was killed"
    process = start_server(f"unix:{path}")
    wait_ready(f"unix:{path}", process)
    process.kill()
    process.wait()
