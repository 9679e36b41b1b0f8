"""~/export_scene: what it writes, what it says, and that neither the node nor a shutdown waits for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import rclpy
import trimesh
from rclpy.client import Client
from ros_helpers import WAIT_S, Rig, rig, wait_for
from serving import StubGenerator, running

from scenegen.files import list_scenes
from scenegen_ros import export_service
from scenegen_ros.srv import Clear, ExportScene

COMMAND = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background ignore it
arguments, folder = sys.argv[1:], pathlib.Path({folder!r})
with open(folder / "called", "a") as file:
    file.write(json.dumps(arguments) + "\\n")
try:
    while (folder / "wait").exists():
        time.sleep(0.01)
except KeyboardInterrupt:
    (folder / "interrupted").touch()
    raise
if (folder / "fail").exists():
    sys.exit("INFO something\\nscenegen: the disk is full")
if arguments[0] == "export":
    out = pathlib.Path(arguments[arguments.index("--out") + 1])
    out.mkdir(parents=True)
    (out / "export.json").write_text(json.dumps(dict(file="scene.x")))
"""
"""Stands for the command where what is under test is the service: it waits, fails or writes as it is told."""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "told"
    folder.mkdir()
    monkeypatch.setattr(export_service, "COMMAND", (sys.executable, "-c", COMMAND.format(folder=str(folder))))
    return folder


def calls(told: Path) -> list[list[str]]:
    return [json.loads(line) for line in (told / "called").read_text().splitlines()]


def client(it: Rig) -> Client:
    made = it.ears.create_client(ExportScene, "scenegen/export_scene")
    assert made.wait_for_service(timeout_sec=WAIT_S)
    return made


def ask(it: Rig, **request: Any) -> ExportScene.Response:
    return it.ears.call(client(it), ExportScene.Request(**request))


def test_the_real_command_writes_what_can_be_opened(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as it:
        assert "no scene was announced yet" in ask(it, formats=["glb"]).message
        assert it.ears.generate(views=1).success
        answer = ask(it, formats=["glb"])
        assert answer.success, answer.message
        wrong = ask(it, formats=["obj"])
    (scene,) = list_scenes(tmp_path / "scenes")
    assert answer.folder == str(scene / "export")
    (uri,) = answer.uris
    assert len(trimesh.load_scene(urlparse(uri).path).geometry) == 2
    assert not wrong.success and "there is no format 'obj': choose one of glb, usd" in wrong.message


def test_what_is_asked_is_what_is_called(ros_context: rclpy.Context, tmp_path: Path, told: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as it:
        assert it.ears.generate(views=1).success
        (scene,) = list_scenes(tmp_path / "scenes")
        answer = ask(it, scene_id=scene.name, formats=["usd", "urdf"], settled=True, scale=0.5, level=True)
        assert answer.success, answer.message
        options, out = ["--scale", "0.5", "--level"], scene / "export"
        assert calls(told) == [
            ["settle", str(scene), *options],
            *(
                ["export", str(scene), "--format", name, "--out", str(out / f"{name}_settled"), *options, "--settled"]
                for name in ("usd", "urdf")
            ),
        ]
        assert answer.uris == [(out / f"{name}_settled" / "scene.x").as_uri() for name in ("usd", "urdf")]
        assert ask(it, formats=["usd"]).success and ask(it, formats=["usd"]).success, "once more, in its place"

        (told / "fail").touch()
        refused = ask(it, formats=["usd"])
        assert (refused.success, refused.message) == (False, "scenegen export: the disk is full")
        assert "no format was asked for" in ask(it).message
        assert "there is no format '--out'" in ask(it, formats=["--out"]).message
        for name in ("nothing", "../elsewhere"):
            assert f"no scene '{name}' is kept" in ask(it, scene_id=name, formats=["glb"]).message
            assert scene.name in ask(it, scene_id=name, formats=["glb"]).message, "it names those that are"


def test_nothing_waits_for_it_and_closing_interrupts_it(ros_context: rclpy.Context, tmp_path: Path, told: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as it:
        assert it.ears.generate(views=1).success
        (told / "wait").touch()
        running_one = client(it).call_async(ExportScene.Request(formats=["usd"]))
        wait_for((told / "called").exists, "the command to run")
        assert it.ears.call(it.ears.clear, Clear.Request()).success, "the node does other things meanwhile"
        assert "another export is running" in ask(it, formats=["glb"]).message
        assert not running_one.done()
        it.node.close()
        wait_for(running_one.done, "the answer")
        assert not running_one.result().success and "cancelled" in running_one.result().message
        assert (told / "interrupted").exists()
