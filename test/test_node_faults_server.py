"""Faults of the server, the disk, the scale and the node itself: /diagnostics names them and the node goes on."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import rclpy
import uvicorn
from conftest import own_context, own_domain
from fault_table import Faults, told
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import SIZE, WAIT_S, Rig, fast_place, rig, wait_for
from serving import StubGenerator, running, view
from starlette.applications import Starlette

from scenegen import client, files
from scenegen.client import SceneClient
from scenegen.scene import InvalidInput
from scenegen.server import Limits, create_app
from scenegen.wire import events
from scenegen_ros import generation
from scenegen_ros.conversions import camera_info_message, image_message

TESTS = Path(__file__).parent
fault = Faults()


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_WAITS_S", ())


@contextmanager
def listening(app: Starlette, socket: Path) -> Iterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, uds=str(socket), ws="none", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield
    server.should_exit = True
    thread.join(WAIT_S)


@fault("a server that is not there")
@fault("something else at the server's address")
@fault("a server that still loads")
@fault("weights that cannot be loaded")
def test_no_server_another_one_that_cannot_load_and_then_ours(
    ros_context: rclpy.Context, tmp_path: Path, quick: None
) -> None:
    loaded = threading.Event()

    def load() -> StubGenerator:
        assert loaded.wait(WAIT_S)
        raise InvalidInput("flow.safetensors: input_layer.weight is [8, 8], expected [16, 8]: take the other file")

    socket = tmp_path / "s"
    with rig(ros_context, f"unix:{socket}", tmp_path / "scenes") as r:
        told(r, "a server that is not there")
        result = r.ears.generate()
        assert not result.success and "no generation server answers" in result.message
        with listening(Starlette(), socket):
            told(r, "something else at the server's address")
        with listening(create_app(load), socket):
            told(r, "a server that still loads")
            loaded.set()
            assert "expected [16, 8]" in told(r, "weights that cannot be loaded").message
        with running(StubGenerator(), socket):
            r.ears.says("ready: waiting for a goal")
            assert r.ears.generate().success


@fault("a wrong token")
def test_a_wrong_token(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    token = tmp_path / "token"
    token.write_text("wrong\n")
    with (
        running(StubGenerator(), tmp_path / "s", token="the right token, long enough") as server,
        rig(ros_context, server, tmp_path / "scenes", token_file=str(token)) as r,
    ):
        told(r, "a wrong token")
        result = r.ears.generate()
        assert not result.success and "token" in result.message
        token.write_text("the right token, long enough\n")
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            getattr(r.node, f"trigger_{transition}")()
        assert r.ears.generate().success


@fault("a server without a segmenter")
def test_a_server_without_a_segmenter(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", segmentation="sam2") as r,
    ):
        told(r, "a server without a segmenter")


@fault("a server that dies at work")
def test_a_server_killed_in_the_middle_of_a_job(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    serve = (
        "import sys, threading; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from serving import StubGenerator, running\n"
        "stub = StubGenerator(steps=2); stub.step.release()\n"
        "with running(stub, Path(sys.argv[1])): threading.Event().wait()"
    )
    socket = tmp_path / "s"
    process = subprocess.Popen([sys.executable, "-c", serve, str(socket), str(TESTS), str(TESTS.parent / "model")])
    try:
        with rig(ros_context, f"unix:{socket}", tmp_path / "scenes") as r:
            r.ears.says("ready: waiting for a goal")
            handle = r.ears.send()
            wait_for(lambda: any(f.stage == "structure" for f in r.ears.feedback), "the server to work")
            process.send_signal(signal.SIGKILL)
            process.wait()
            result = r.ears.result(handle).result
            assert not result.success and "broke during the generation" in result.message
            r.ears.says("broke during the generation", stage="generation")
            socket.unlink(missing_ok=True)
            with running(StubGenerator(), socket):
                told(r, "a server that dies at work")
                assert r.ears.generate().success
                r.ears.says("ready: waiting for a goal")
    finally:
        process.kill()


SCALE = {
    "no depth": lambda shot: None,
    "an uncalibrated camera": lambda shot: setattr(shot, "camera_info", camera_info_message(None, SIZE)),
    "depth without readings": lambda shot: setattr(
        shot, "depth", image_message(np.full(SIZE, np.nan, np.float32), "32FC1")
    ),
}


@fault("no depth")
@fault("an uncalibrated camera")
@fault("depth without readings")
@pytest.mark.parametrize("lacking", SCALE)
def test_without_scale_nothing_is_called_metric(ros_context: rclpy.Context, tmp_path: Path, lacking: str) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", with_depth=lacking != "no depth", paused=True) as r,
    ):
        SCALE[lacking](r.camera.shot)
        r.camera.paused = False
        result = r.ears.generate()
        assert result.success, result.message
        told(r, lacking)
        assert result.scene.header.frame_id == "camera_optical_frame"
        assert not any(o.metric for o in result.scene.objects)
        wait_for(lambda: r.ears.markers, "~/markers")
        assert all(m.color.a == 0.5 for m in r.ears.markers[-1].markers[1:])
        assert not wait_for(lambda: r.ears.detections, "~/detections")[-1].detections
        assert "scenegen/1" not in r.ears.frames


@fault("a parameter that cannot be used")
@fault("a node that was not configured")
@fault("a node that was not activated")
@fault("simulated time without a clock")
def test_a_node_that_is_not_ready_to_begin(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with rig(ros_context, f"unix:{tmp_path / 's'}", tmp_path / "scenes", active=False, detail="maybe") as r:
        told(r, "a node that was not configured")
        assert r.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        told(r, "a parameter that cannot be used")
        (refused,) = r.node.set_parameters([Parameter("detail", value="perhaps")])
        assert not refused.successful and "parameter detail is 'perhaps'" in refused.reason
        r.node.set_parameters([Parameter("detail", value="coarse")])
        assert r.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        told(r, "a node that was not activated")
        r.node.set_parameters([Parameter("use_sim_time", value=True)])
        told(r, "simulated time without a clock")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, StubGenerator]]:
    """One node and one server that takes one view, has no queue and says that it has a GPU."""

    class OnGpu(StubGenerator):
        def device_memory(self) -> tuple[int, int]:
            return 3 << 30, 8 << 30

    folder, stub = tmp_path_factory.mktemp("served"), OnGpu()
    with pytest.MonkeyPatch.context() as patch, own_domain(patch) as domain, own_context(domain) as context:
        patch.setattr(generation, "place_scene", fast_place)
        with (
            running(stub, folder / "s", limits=Limits(views=1, waiting=0)) as server,
            rig(context, server, folder / "scenes") as r,
        ):
            assert r.ears.generate(views=1).success
            yield r, stub


def goes_on(r: Rig) -> None:
    """The next generation succeeds, its scene is heard, and nothing is wrong any more."""
    result = r.ears.generate(views=1)
    assert result.success, result.message
    wait_for(lambda: r.ears.scenes and r.ears.scenes[-1].id == result.scene.id, "the scene")
    r.ears.says("ready: waiting for a goal")


@fault("a request over the server's limits")
def test_a_request_over_the_servers_limits(served: tuple[Rig, StubGenerator]) -> None:
    r, _ = served
    r.camera.shot.x_m += 1.0
    r.ears.says("2 kept", stage="views")
    assert not r.ears.generate().success
    told(r, "a request over the server's limits")
    goes_on(r)


@fault("a full queue")
def test_a_full_queue(served: tuple[Rig, StubGenerator]) -> None:
    r, stub = served
    stub.steps, stub.started = 1, threading.Semaphore(0)
    other = threading.Thread(target=SceneClient(r.node.get_parameter("server").value).generate, args=([view()],))
    other.start()
    assert stub.started.acquire(timeout=WAIT_S)
    assert not r.ears.generate(views=1).success
    told(r, "a full queue")
    r.ears.value("server", "at work", "yes".__eq__)
    r.ears.value("server", "queue", "0 of 0".__eq__)
    r.ears.value("server", "GPU memory [GiB]", "3.0 of 8.0".__eq__)
    stub.step.release()
    other.join()
    stub.steps = 0
    r.ears.value("server", "at work", "no".__eq__)
    goes_on(r)


@fault("a generation that fails on the server")
def test_a_generation_that_fails_on_the_server(served: tuple[Rig, StubGenerator]) -> None:
    r, stub = served
    stub.failure = RuntimeError("CUDA out of memory")
    try:
        assert not r.ears.generate(views=1).success
    finally:
        stub.failure = None
    told(r, "a generation that fails on the server")
    r.ears.told(lambda said: "CUDA out of memory" in str(said["problems"].values), "it to be among the problems")
    goes_on(r)
    r.ears.value("generation", "last: structure [s]", "0.50".__eq__)
    r.ears.value("generation", "last: placing [s]", lambda seconds: seconds and 0 <= float(seconds) < WAIT_S)


@fault("a mesh of the server's that cannot be read")
def test_a_mesh_that_cannot_be_read(served: tuple[Rig, StubGenerator], monkeypatch: pytest.MonkeyPatch) -> None:
    r, _ = served
    with monkeypatch.context() as broken:
        broken.setattr(events, "mesh_to_glb", lambda mesh: b"glTF and no more")
        assert not r.ears.generate(views=1).success
        told(r, "a mesh of the server's that cannot be read")
    goes_on(r)


@fault("a full disk")
def test_a_full_disk(served: tuple[Rig, StubGenerator], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    r, _ = served
    folder, scenes = Path(r.node.get_parameter("output_dir").value), len(r.ears.scenes)
    before = sorted(folder.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr(files, "_write", full)
        assert not r.ears.generate(views=1).success
        told(r, "a full disk")
    assert len(r.ears.scenes) == scenes and sorted(folder.iterdir()) == before
    goes_on(r)


@fault("a damaged scene on disk")
def test_a_damaged_scene_on_disk(served: tuple[Rig, StubGenerator]) -> None:
    r, _ = served
    good, damaged = (r.ears.generate(views=1).scene for _ in range(2))
    Path(urlparse(damaged.objects[0].mesh_uri).path).write_bytes(b"glTF")
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        getattr(r.node, f"trigger_{transition}")()
    assert damaged.id in str(told(r, "a damaged scene on disk").values)
    r.ears.says(good.id, stage="outputs")
    goes_on(r)
