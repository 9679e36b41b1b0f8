"""SceneClient against real servers: the scene comes back whole, and every failure has its own exception."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from serving import WAIT_S, StubGenerator, box, running, view, wait_until
from test_server import start_server, wait_ready

from scenegen import client as client_module
from scenegen.address import Address
from scenegen.client import (
    ConnectionLost,
    GenerationFailed,
    Readiness,
    RequestTooLarge,
    SceneClient,
    ServerBusy,
    ServerNotReady,
    ServerUnreachable,
    Unauthorized,
)
from scenegen.scene import Cancelled, InvalidInput, Progress, Scene
from scenegen.server import Limits
from scenegen.wire import MEDIA_TYPE


def check_scene(scene: Scene, ids: tuple[int, ...], seed: int) -> None:
    assert tuple(asset.id for asset in scene.assets) == ids
    for asset in scene.assets:
        expected = box(asset.id, seed)
        np.testing.assert_array_equal(asset.mesh.vertices, expected.mesh.vertices.astype(np.float32))
        np.testing.assert_array_equal(asset.mesh.visual.vertex_colors, expected.mesh.visual.vertex_colors)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_scene_over_a_unix_socket(tmp_path: Path) -> None:
    generator = StubGenerator(steps=2)
    generator.step.release(2)
    progress: list[Progress] = []
    with running(generator, tmp_path / "s") as address:
        client = SceneClient(address)
        assert client.ready() == Readiness("ready", "the model is loaded", False, 0, 4, None, segmenter=False)
        scene = client.generate([view()], seed=7, ids=[3, 1], on_progress=progress.append)
    check_scene(scene, (3, 1), 7)
    assert scene.seconds == {"structure": 0.5}
    assert [(p.stage, p.fraction) for p in progress[:2]] == [("structure", 0.5), ("structure", 1.0)]
    assert [p.asset.id for p in progress if p.asset is not None] == [3, 1], "each object as soon as it is ready"


def test_the_coarse_scene_comes_before_textures_are_begun(tmp_path: Path) -> None:
    generator = StubGenerator(textures=True)
    heard: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        heard.append(progress)
        if progress.scene is not None:
            assert [asset.detail for asset in progress.scene.assets] == ["coarse"] * 3
            generator.step.release(3)

    with running(generator, tmp_path / "s") as address:
        scene = SceneClient(address).generate([view()], on_progress=on_progress)
        only_coarse = SceneClient(address).generate([view()], detail="coarse")
    assert [p.asset.detail for p in heard if p.asset is not None] == ["coarse"] * 3 + ["textured"] * 3
    assert [asset.detail for asset in scene.assets] == ["textured"] * 3
    assert [asset.detail for asset in only_coarse.assets] == ["coarse"] * 3


def test_a_scene_over_tcp_ignores_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    address = f"http://127.0.0.1:{free_port()}"
    process = start_server(address)
    try:
        wait_ready(address, process)
        check_scene(SceneClient(address).generate([view()], seed=2), (1, 2, 3), 2)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    command += " -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,digitalSignature,keyCertSign"
    files = folder / "certificate.pem", folder / "key.pem"
    subprocess.run([*command.split(), "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_tls_and_token(certificate: tuple[Path, Path]) -> None:
    address = f"https://localhost:{free_port()}"
    ca_file = str(certificate[0])
    process = start_server(address, token="secret", certificate=ca_file, key=str(certificate[1]))
    try:
        wait_ready(address, process, token="secret", ca_file=ca_file)
        scene = SceneClient(address, "secret", ca_file=ca_file).generate([view()], seed=3)
        check_scene(scene, (1, 2, 3), 3)
        with pytest.raises(Unauthorized, match="token is wrong"):
            SceneClient(address, "guess", ca_file=ca_file).generate([view()])
        with pytest.raises(ServerUnreachable, match="not trusted"):
            SceneClient(address, "secret").ready()
        with pytest.raises(ServerUnreachable, match="not trusted.*host name"):
            SceneClient(address.replace("localhost", "127.0.0.1"), "secret", ca_file=ca_file).ready()
    finally:
        process.kill()
        process.wait()


def test_a_socket_may_lie_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/robot")
    assert str(Address.parse("unix:~/.ros/scenegen.sock")) == "unix:/home/robot/.ros/scenegen.sock"


@pytest.mark.parametrize("address", ["http://192.0.2.1:80", "ftp://localhost:1", "unix:", "https://localhost"])
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(InvalidInput):
        SceneClient(address, "secret")


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(InvalidInput, match="PEM"):
            SceneClient("https://localhost:1", ca_file=str(tmp_path / name))


class Waits:
    """Retry waits that say that a first attempt has failed, and never end."""

    def __init__(self) -> None:
        self.tried = threading.Event()

    def __iter__(self) -> Iterator[float]:
        while True:
            self.tried.set()
            yield 0.02


def test_a_server_that_is_down_is_tried_again_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"unix:{tmp_path / 's'}"
    monkeypatch.setattr(client_module, "_RETRY_WAITS_S", (0.01, 0.01))
    with pytest.raises(ServerUnreachable, match="scenegen serve"):
        SceneClient(address).generate([view()])
    with pytest.raises(ServerUnreachable):
        SceneClient(f"http://127.0.0.1:{free_port()}").ready()

    waits = Waits()
    monkeypatch.setattr(client_module, "_RETRY_WAITS_S", waits)
    with in_thread(lambda: SceneClient(address).generate([view()], seed=4)) as result:
        assert waits.tried.wait(WAIT_S)
        with running(StubGenerator(), tmp_path / "s"):
            check_scene(result(), (1, 2, 3), 4)
    # A client that waits for a server to come up can be cancelled too.
    waits.tried.clear()
    with pytest.raises(Cancelled):
        SceneClient(f"unix:{tmp_path / 'other'}").generate([view()], cancelled=waits.tried.is_set)


@contextmanager
def in_thread(work: Callable[[], Scene]) -> Iterator[Callable[[], Scene]]:
    """Runs work beside the test; the yielded function waits for its result, or raises what it raised."""
    outcome: list[Scene | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    def result() -> Scene:
        thread.join(WAIT_S)
        assert outcome, "it did not end"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield result


@contextmanager
def raw_server(answer: bytes, keep_open: bool = False) -> Iterator[tuple[str, list[socket.socket]]]:
    """Accepts, reads what there is, sends the answer, closes (or not)."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                accepted.append(connection)
                connection.recv(65536)
                connection.sendall(answer)
                if not keep_open:
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", accepted
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)
    for connection in accepted:
        connection.close()


def test_a_request_that_was_sent_is_never_sent_again() -> None:
    with raw_server(b"") as (address, accepted):
        with pytest.raises(ConnectionLost):
            SceneClient(address).generate([view()])
        assert len(accepted) == 1


def test_a_server_that_says_nothing_is_given_up() -> None:
    with raw_server(b"", keep_open=True) as (address, accepted):
        with pytest.raises(ConnectionLost, match="ReadTimeout"):
            SceneClient(address, silence_s=0.5).generate([view()])
        assert len(accepted) == 1


def test_something_else_at_the_address() -> None:
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope"
    with raw_server(page) as (address, _), pytest.raises(ServerUnreachable, match="not a generation server"):
        SceneClient(address).ready()
    with raw_server(page.replace(b"404 Not Found", b"200 OK")) as (address, _):
        with pytest.raises(ServerUnreachable, match="not a generation server"):
            SceneClient(address).ready()
        with pytest.raises(ServerUnreachable, match="not a generation server"):
            SceneClient(address).generate([view()])
    garbled = f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 20\r\n\r\n".encode() + b"x" * 20
    with raw_server(garbled) as (address, _), pytest.raises(GenerationFailed, match="cannot be read"):
        SceneClient(address).generate([view()])


def test_refusals_have_their_own_exceptions(tmp_path: Path) -> None:
    generator = StubGenerator(steps=1)
    limits = Limits(views=2, waiting=0)
    with running(generator, tmp_path / "s", token="secret", limits=limits) as address:
        with pytest.raises(Unauthorized, match="no token"):
            SceneClient(address).generate([view()])
        with pytest.raises(Unauthorized, match="token is wrong"):
            SceneClient(address, "guess").ready()
        client = SceneClient(address, "secret")
        with pytest.raises(RequestTooLarge, match="3 views, the limit is 2: send fewer views"):
            client.generate([view()] * 3)
        with in_thread(lambda: client.generate([view()])) as result:
            assert generator.started.acquire(timeout=WAIT_S)
            with pytest.raises(ServerBusy) as busy:
                client.generate([view()])
            assert busy.value.retry_after >= 1
            generator.step.release()
            check_scene(result(), (1, 2, 3), 42)
        generator.step.release(2)
        with pytest.raises(InvalidInput, match="segment the image first"):
            client.generate([view(())])
        generator.failure = RuntimeError("no kernel image")
        with pytest.raises(GenerationFailed, match="no kernel image"):
            client.generate([view()])


def test_a_large_refused_request_still_gets_its_answer(tmp_path: Path) -> None:
    big = view(size=(900, 1200))
    with running(StubGenerator(), tmp_path / "s", limits=Limits(pixels=1000), token="x") as address:
        for _ in range(3):
            with pytest.raises(RequestTooLarge, match="1200 x 900 pixels"):
                SceneClient(address, "x").generate([big])
            with pytest.raises(Unauthorized):
                SceneClient(address).generate([big])


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    class Truncated(StubGenerator):
        pass

    def load() -> StubGenerator:
        raise InvalidInput("flow.safetensors is cut short")

    with running(StubGenerator(), tmp_path / "s", load=load) as address:
        client = SceneClient(address)
        wait_until(lambda: client.ready().state == "failed")
        assert "cut short" in client.ready().detail
        with pytest.raises(ServerNotReady, match="cut short"):
            client.generate([view()])


def test_cancel_while_the_server_is_silent(tmp_path: Path) -> None:
    generator = StubGenerator(steps=3)
    with running(generator, tmp_path / "s") as address:
        asked = threading.Event()
        with in_thread(lambda: SceneClient(address).generate([view()], cancelled=asked.is_set)) as result:
            assert generator.started.acquire(timeout=WAIT_S)
            asked.set()
            with pytest.raises(Cancelled):
                result()
        wait_until(generator.sees_cancel)
        generator.step.release()
        assert generator.ended.acquire(timeout=WAIT_S)
        assert generator.was_cancelled and not generator.taken


def test_close_ends_a_generation_in_another_thread(tmp_path: Path) -> None:
    generator = StubGenerator(steps=3)
    with running(generator, tmp_path / "s") as address:
        client = SceneClient(address)
        with in_thread(lambda: client.generate([view()])) as result:
            assert generator.started.acquire(timeout=WAIT_S)
            client.close()
            with pytest.raises(Cancelled):
                result()
        wait_until(generator.sees_cancel)
        generator.step.release()


def test_an_error_in_on_progress_is_the_callers_and_stops_the_work(tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        raise ZeroDivisionError

    generator = StubGenerator(steps=3)
    generator.step.release()
    with running(generator, tmp_path / "s") as address:
        with pytest.raises(ZeroDivisionError):
            SceneClient(address).generate([view()], on_progress=fail)
        wait_until(generator.sees_cancel)
        generator.step.release()
        assert generator.ended.acquire(timeout=WAIT_S)
        assert generator.taken == [0]


def test_a_server_killed_in_the_middle_of_a_job(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's'}"
    process = start_server(address, steps=2, released=1)
    wait_ready(address, process)
    seen = threading.Event()
    with in_thread(lambda: SceneClient(address).generate([view()], on_progress=lambda p: seen.set())) as result:
        wait_until(seen.is_set)
        process.kill()
        process.wait()
        with pytest.raises(ConnectionLost, match="broke during the generation"):
            result()
    with running(StubGenerator(), tmp_path / "s"):
        check_scene(SceneClient(address).generate([view()], seed=5), (1, 2, 3), 5)
