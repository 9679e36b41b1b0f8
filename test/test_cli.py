"""The scenegen command, run as a process or in this one, over a real pipeline with random weights."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_checkpoint import drawn_view, write_random_checkpoint
from serving import WAIT_S, StubGenerator, running
from test_server import wait_ready

from scenegen import cli
from scenegen.client import SceneClient
from scenegen.documents import scene_views
from scenegen.files import list_scenes, read_scene
from scenegen.generator.pipeline import SceneGen

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of generate: one image with masks, depth and camera."""
    folder = tmp_path_factory.mktemp("inputs")
    view = drawn_view()
    Image.fromarray(view.image).save(folder / "image.png")
    Image.fromarray(view.masks.astype(np.uint16)).save(folder / "masks.png")
    Image.fromarray(np.where(view.masks > 0, 900, 1200).astype(np.uint16)).save(folder / "depth.png")
    camera = {
        "width": 80,
        "height": 60,
        "intrinsics": [[75, 0, 39.5], [0, 75, 29.5], [0, 0, 1]],
        "T_world_camera": [[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]],
    }
    (folder / "camera.json").write_text(json.dumps(camera))
    return [str(folder / "image.png"), "--masks", str(folder / "masks.png")]


def with_depth(inputs: list[str]) -> list[str]:
    folder = Path(inputs[0]).parent
    return [*inputs, "--depth", str(folder / "depth.png"), "--camera", str(folder / "camera.json")]


def test_generate_writes_a_scene_and_says_what_it_is(
    inputs: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", *with_depth(inputs), "--weights", str(weights), "--out", str(tmp_path), "--seed", "3"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    (folder,) = list_scenes(tmp_path)
    assert lines[-1] == str(folder)
    scene, placed, meta = read_scene(folder)
    assert [asset.id for asset in scene.assets] == [3, 5, 8] and placed is not None
    assert "metres" in lines[0] and "world" in lines[0] and (meta["frame_id"], meta["metric"]) == ("world", True)
    assert [int(line.split()[0]) for line in lines[2:-1]] == [3, 5, 8]
    for o in placed:
        assert 0.1 < o.T_world_object[0, 3] < 2.5, "0.9 m before a camera at x = 0.5 m that looks along x"
    sheet = np.asarray(Image.open(folder / "contact_sheet.png"))
    assert (sheet[310:600, 440:850] < 250).any(), "the objects are drawn"
    [view] = scene_views(folder)
    assert view.instance_ids == (3, 5, 8) and view.T_world_camera is not None and view.T_world_camera[0, 3] == 0.5

    # The same seed gives the same scene, in a folder of its own; without depth nothing is metric.
    assert cli.main(arguments) == 0
    again = read_scene(list_scenes(tmp_path)[0])[0]
    np.testing.assert_array_equal(again.assets[1].mesh.vertices, scene.assets[1].mesh.vertices)
    flat = ["generate", *inputs, "--weights", str(weights), "--out", str(tmp_path / "flat"), "--ids", "5", "8"]
    assert cli.main(flat) == 0
    assert "not metric" in capsys.readouterr().out
    assert [o.id for o in read_scene(list_scenes(tmp_path / "flat")[0])[0].assets] == [5, 8]


def test_generate_by_a_server(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.delenv(cli.TOKEN_VARIABLE, raising=False)
    with running(StubGenerator(), tmp_path / "s", token="secret") as address:
        arguments = ["generate", *with_depth(inputs), "--server", address, "--out", str(tmp_path / "out")]
        assert cli.main(arguments) == 1
        assert "no token" in capsys.readouterr().err
        assert cli.main([*arguments, "--token-file", str(tmp_path / "token")]) == 0
        monkeypatch.setenv(cli.TOKEN_VARIABLE, "secret")
        assert cli.main(arguments) == 0
    assert len(list_scenes(tmp_path / "out")) == 2


@pytest.mark.parametrize("detail", ["coarse", "textured"])
def test_generate_takes_the_detail_that_is_asked_for(inputs: list[str], tmp_path: Path, detail: str) -> None:
    with running(StubGenerator(textures=True, released=3), tmp_path / "s") as address:
        arguments = ["generate", *with_depth(inputs), "--server", address, "--out", str(tmp_path / "out")]
        assert cli.main([*arguments, "--detail", detail]) == 0
    (folder,) = list_scenes(tmp_path / "out")
    scene, _, meta = read_scene(folder)
    assert [asset.detail for asset in scene.assets] == [detail] * 3 and meta["preliminary"] is False
    sheet = np.asarray(Image.open(folder / "contact_sheet.png"))
    assert (sheet[310:600, 440:850] < 250).any(), "textured objects are drawn too"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda a, t: [str(t / "no.png"), *a[1:]], 2, "no.png does not exist"),
        (lambda a, t: [*a, "--depth", a[0]], 2, "not a 16-bit"),
        (lambda a, t: [*a, "--weights", str(t)], 2, "pipeline.json"),
        (lambda a, t: [*a, "--ids", "3", "77"], 2, "77"),
        (lambda a, t: [*a, "--known-size", "object_3"], 2, "mug=0.095"),
        (lambda a, t: [*a, "--device", "cuda:99"], 2, "device 'cuda:99' cannot be used"),
        (lambda a, t: [*a, "--device", "gpu"], 2, "device 'gpu' cannot be used"),
        (lambda a, t: [*a, "--server", f"unix:{t / 'none.sock'}"], 1, "no generation server answers"),
        (lambda a, t: [*a, "--server", "example.org"], 2, "not a server address"),
        (lambda a, t: [*a, "--server", "http://127.0.0.1:9", "--token-file", str(t / "none")], 2, "token file"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(  # noqa: ANN001
    change,
    status: int,
    message: str,
    inputs: list[str],
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = change([*inputs, "--weights", str(weights)], tmp_path)
    assert cli.main(["generate", *arguments, "--out", str(tmp_path / "out")]) == status
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("scenegen: ") and message in captured.err
    assert "Traceback" not in captured.err and not captured.out
    assert not (tmp_path / "out").exists()


def test_a_known_size_gives_metres_without_depth(
    inputs: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--known-size", "object_3=0.32", "cup=0.1"]
    assert cli.main(["generate", *inputs, "--weights", str(weights), *sizes, "--out", str(tmp_path)]) == 0
    _, placed, meta = read_scene(list_scenes(tmp_path)[0])
    assert placed is not None and meta["metric"] and all(o.metric for o in placed)
    assert max(next(o for o in placed if o.id == 3).size_m) == pytest.approx(0.32)
    assert "no object is called cup" in capsys.readouterr().err


def test_depth_of_a_camera_nobody_knows_is_said_to_give_no_scale(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = ["--depth", str(Path(inputs[0]).parent / "depth.png")]
    with running(StubGenerator(), tmp_path / "s") as address:
        arguments = ["generate", *inputs, "--server", address, "--out", str(tmp_path)]
        assert cli.main([*arguments, *depth, "--weights", "mine"]) == 0
        error = capsys.readouterr().err
        assert "not metric" in error and "add --camera" in error and "--weights" in error
        assert cli.main(arguments) == 0
        error = capsys.readouterr().err
        assert "add --depth" in error and "--weights" not in error


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    beneath = str(tmp_path / "file" / "out")
    assert cli.main(["generate", *inputs, "--weights", "never read", "--out", beneath]) == 1
    assert beneath in capsys.readouterr().err
    assert cli.main(["benchmark", "--weights", "tiny", "--scenes", "1", "--json", f"{beneath}/f.json"]) == 1
    assert beneath in capsys.readouterr().err
    assert cli.main(["synthesize", "--out", beneath]) == 1
    error = capsys.readouterr().err
    assert beneath in error and "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["synthesize", "--seed", "-1", "--out", "out"],
        ["benchmark", "--scenes", "0"],
        ["benchmark", "--views", "1", "0"],
        ["inspect", "tiny", "--assets", "0"],
    ],
)
def test_numbers_out_of_range_are_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert "or more" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_truncated_checkpoint_is_named_by_a_server_that_stays(weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(weights, broken)
    flow = broken / "ss_flow.safetensors"
    flow.write_bytes(flow.read_bytes()[:-500])
    with running(StubGenerator(), tmp_path / "s", load=lambda: SceneGen.from_pretrained(broken)) as address:
        readiness = SceneClient(address).ready()
        assert readiness.state == "failed" and "ss_flow.safetensors" in readiness.detail


def test_serve_generates_and_stops_on_sigterm(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [sys.executable, "-m", "scenegen.cli", "serve", "--unix", str(path), "--weights", str(weights)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "model")})
    try:
        wait_ready(f"unix:{path}", process)
        scene = SceneClient(f"unix:{path}").generate([drawn_view()], ids=[5], seed=1)
        assert [asset.id for asset in scene.assets] == [5]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "not encrypted"),
        (["--host", "0.0.0.0", "--certificate", "c", "--key", "k"], "no token"),
        (["--host", "127.0.0.1", "--certificate", "c"], "--certificate and --key"),
        (["--unix", "/nowhere/at/all.sock"], "cannot make the socket"),
    ],
)
def test_serve_refuses_to_be_open_to_others(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cli.TOKEN_VARIABLE, raising=False)
    assert cli.main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_launch_file_starts_the_server_with_arguments_it_knows() -> None:
    text = (ROOT / "launch" / "scene.launch.py").read_text()
    command = re.search(r'"serve".*?\]', text, re.DOTALL)
    assert command is not None
    arguments = [re.sub('"', "", word) if word.startswith('"') else "x" for word in re.split(r",\s*", command[0][:-1])]
    parsed = cli._parser().parse_args(arguments)
    assert (parsed.unix, parsed.weights, parsed.device) == ("x", "x", "x")


def test_the_readme_names_every_command() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    named = {name.split()[0] for line in lines for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])}
    [commands] = cli._parser()._subparsers._group_actions  # type: ignore[union-attr]
    assert set(commands.choices or ()) <= named


def test_synthesize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synthesize", "--seed", "4", "--scenes", "1", "--out", str(tmp_path)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert sorted(path.name for path in folder.iterdir()) == [
        "camera.json",
        "depth.png",
        "image.png",
        "masks.png",
        "truth.glb",
        "truth.json",
    ]
    assert cli.main(["synthesize", "--scenes", "0", "--out", str(tmp_path)]) == 2


def test_the_command_loads_torch_only_where_it_is_needed() -> None:
    code = "import sys, scenegen.cli; print(sorted({'torch', 'transformers', 'rclpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=ROOT / "model")
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("script", ["scenegen", "scenegen_node", "scenegen_viewer", "simulated_camera"])
def test_processes_that_a_command_spawns_do_not_run_it_again(script: str) -> None:
    # as multiprocessing's spawn imports the script its parent was started by
    assert "main" in runpy.run_path(str(ROOT / "scripts" / script), run_name="__mp_main__")
