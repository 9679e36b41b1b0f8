"""The demo: its figures, its processes, and all of it as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.preview import draw_outlines
from scenegen.scene import PlacedObject
from scenegen.synthetic import SyntheticScene, make_scene, view_of_all
from scenegen_ros import demo, rooms
from scenegen_ros.demo_operator import Stages
from scenegen_ros.demo_processes import Processes, ProcessFailed
from scenegen_ros.demo_report import draw, object_errors, report, tables, true_objects

WAIT_S = 250.0


def moved(o: PlacedObject, *, by_m: float = 0.0, yaw_deg: float = 0.0, size: float = 1.0) -> PlacedObject:
    T = o.T_world_object.copy()
    T[0, 3] += by_m
    T[:3, :3] = T[:3, :3] @ Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    return replace(o, T_world_object=T, size_m=o.size_m * size, scale_m=o.scale_m * size)


def scene_of(*families: str) -> SyntheticScene:
    return make_scene(3, (len(families),) * 2, families)


def test_the_truth_has_no_errors() -> None:
    truth = make_scene(5)
    for e in object_errors(true_objects(truth), truth):
        assert (e.pose_error_m, e.size_error) == pytest.approx((0, 0), abs=1e-9)
        assert e.rotation_error_deg == pytest.approx(0, abs=1e-5)


def test_errors_are_measured_object_by_object() -> None:
    truth = scene_of("chair", "chair")
    first, second = true_objects(truth)
    e, unharmed = object_errors([moved(first, by_m=0.03, yaw_deg=20, size=0.8), second], truth)
    assert (e.id, e.label) == (1, "chair")
    assert e.position_m[0] == pytest.approx(first.T_world_object[0, 3] + 0.03)
    assert e.pose_error_m == pytest.approx(0.03)
    assert e.rotation_error_deg == pytest.approx(20)
    assert e.size_error == pytest.approx(0.25)  # as far off as 1.25 times too large
    assert unharmed.pose_error_m == 0


def test_a_turn_that_symmetry_allows_is_no_error() -> None:
    truth = scene_of("can")
    (e,) = object_errors([moved(true_objects(truth)[0], yaw_deg=77)], truth)
    assert e.rotation_error_deg == pytest.approx(0, abs=1e-5)


def test_report_is_json_and_says_what_is_missing() -> None:
    truth = scene_of("can", "box")
    (e,) = object_errors([replace(true_objects(truth)[0], residual_m=float("nan"))], truth)
    figures = json.loads(
        json.dumps(report([e], [2], 4, {"structure": 1.23456}, {"server": 500, "node": 50.06}), allow_nan=False)
    )
    assert figures["objects"][0]["id"] == 1 and figures["objects"][0]["residual_m"] is None
    assert figures["missing"] == [2] and figures["views"] == 4
    assert figures["seconds"] == {"structure": 1.235}
    assert figures["peak_rss_mb"] == 550.1
    text = "\n".join(tables([e], {"structure": 1.23456}))
    assert e.label in text and "structure" in text and "nan" not in text


def test_preview_shows_the_generated_scene_beside_the_true_one() -> None:
    truth = scene_of("can", "box")
    view, true = view_of_all(truth), true_objects(truth)
    right = draw(view, true, truth)
    height, width = right.shape[0] // 2, right.shape[1] // 4
    panels = [right[30 : height - 10, i * width + 10 : (i + 1) * width - 20] for i in range(4)]
    assert (panels[2] < 250).mean() > 0.02
    wrong = draw(view, [moved(o, by_m=0.1) for o in true], truth)
    differs = (right != wrong).any(axis=2)
    columns = [differs[:height, i * width : (i + 1) * width].mean() for i in range(4)]
    assert columns[2] > 0.01 and columns[0] == columns[1] == columns[3] == 0


def test_outlines_of_the_truth_follow_the_masks() -> None:
    truth = scene_of("can", "box")
    view = view_of_all(truth)
    drawn = (draw_outlines(view, true_objects(truth), view.image) != view.image).any(axis=2)
    edges = cv2.morphologyEx(view.masks.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    near = cv2.dilate(edges.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert drawn[edges].mean() > 0.95 and drawn[~near].mean() < 0.001


def test_stages_add_up_whatever_is_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr("scenegen_ros.demo_operator.time.monotonic", lambda: next(clock))
    heard: list[tuple[str, float]] = []
    stages = Stages(lambda name, progress: heard.append((name, progress)))
    stages.enter("waiting for views that see ids [1, 2]: 0 of 4", 0.0)
    stages.enter("waiting for views that see ids [1, 2]: 3 of 4", 0.0)
    stages.enter("structure", 0.5)
    stages.end()
    assert stages.seconds == {"waiting for views": 3.0, "structure": 4.0}
    assert heard[-1] == ("structure", 0.5)


def wait_for(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def test_a_child_that_ends_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short.py").write_text("import sys; sys.exit('the camera is on fire')")
    monkeypatch.chdir(tmp_path)
    with Processes(tmp_path / "logs") as processes:
        processes.start("camera", "short")

        def told() -> bool:
            try:
                processes.check()
            except ProcessFailed as error:
                assert "the camera ended with status 1" in str(error) and "the camera is on fire" in str(error)
                return True
            return False

        wait_for(told, "the child's end")


def test_no_child_outlives_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    )
    (tmp_path / "stubborn.py").write_text(stubborn)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scenegen_ros.demo_processes._STOP_S", 0.2)
    mark = marked(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
        processes.start("one", "stubborn")
        wait_for(lambda: "up" in (tmp_path / "one.log").read_text(), "the child")
        assert processes.peak_rss_mb()["one"] > 1
        raise KeyboardInterrupt
    assert running(mark) == []


def test_an_interrupt_amid_a_fork_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patient.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.chdir(tmp_path)
    start, before = subprocess.Popen, signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return start(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    mark = marked(monkeypatch)
    try:
        with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
            processes.start("one", "patient")
            pytest.fail("the interrupt was lost")
        assert (tmp_path / "one.log").exists() and running(mark) == [], "it was started, and ended"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_rooms_it_says_where_to_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rooms.main([str(tmp_path)]) == 1
    assert "ROOMS_DIR=" in capsys.readouterr().err


def marked(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark that every process started from now on inherits."""
    mark = f"SCENEGEN_TEST_MARK={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    return mark


def running(mark: str) -> list[str]:
    """Command lines of the processes with a mark, this one aside."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            pass
    return found


def start_demo(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scenegen_ros.demo", "--out", str(out), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=demo_root(),
        # a test run started in a shell's background ignores SIGINT, and its children would as well
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def demo_root() -> Path:
    return Path(demo.__file__).resolve().parents[1]


def test_ctrl_c_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = marked(monkeypatch)
    process = start_demo(tmp_path)
    wait_for(lambda: len(running(mark)) >= 4, "the demo and its three children")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130 and "Traceback" not in errors
    assert running(mark) == []


def test_a_model_that_cannot_be_loaded_is_told_and_leaves_nothing_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = marked(monkeypatch)
    (tmp_path / "preview.png").write_bytes(b"of an earlier run")
    process = start_demo(tmp_path, "--weights", "/nowhere/weights")
    _, errors = process.communicate(timeout=2 * WAIT_S)
    assert process.returncode == 1 and "/nowhere/weights" in errors and "Traceback" not in errors
    assert not (tmp_path / "preview.png").exists()
    assert running(mark) == []


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system test: camera, node and server over real topics, with the packaged weights."""
    mark = marked(monkeypatch)
    process = start_demo(tmp_path)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, output + errors
    assert running(mark) == []

    figures = json.loads((tmp_path / "report.json").read_text())
    truth = make_scene(demo.SEED)
    assert [o["id"] for o in figures["objects"]] == [1, 2, 3, 4] and figures["missing"] == []
    assert len(truth.objects) == 4 and figures["views"] == demo.VIEWS
    assert {"starting", "conditioning", "structure", "assets", "placing"} <= figures["seconds"].keys()
    assert 100 < figures["peak_rss_mb"] < 8000
    for o in figures["objects"]:
        assert o["residual_m"] < 0.06
    # where an orbit is joined is left to chance, and small weights fail on an object now and then
    off = sorted(o["pose_error_m"] / size_m for o, size_m in zip(figures["objects"], truth.size_m, strict=True))
    assert off[2] < 0.4 and off[3] < 1, off
    too_large = sorted(o["size_error"] for o in figures["objects"])
    assert too_large[2] < 0.4 and too_large[3] < 1.5, too_large
    turned = sorted(o["rotation_error_deg"] for o in figures["objects"])
    assert turned[2] < 30, turned

    whole = trimesh.load_scene(tmp_path / "scene.glb")
    assert len(whole.geometry) == 4
    preview = cv2.imread(str(tmp_path / "preview.png"))
    assert preview.shape[0] > 900 and preview.shape[1] > 2000
    for o in figures["objects"]:
        assert f"{o['label']} " in output
