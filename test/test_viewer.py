"""The page that shows a scene: what is sent to the browser is the scene, and Chromium draws it from one file alone."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import exporting
import msgspec
import numpy as np
import pytest
import trimesh
import zstandard
from chromium import needs_chromium, open_page
from scipy.spatial.transform import Rotation

from scenegen import cli
from scenegen.documents import document_scene
from scenegen.files import read_scene
from scenegen.glb import mesh_from_glb, mesh_to_glb
from scenegen.scene import View
from scenegen.viewer import shown_scene

K = np.array([[70.0, 0, 31.5], [0, 70, 23.5], [0, 0, 1]])


def view(x_m: float) -> View:
    """A red picture, from 1 m above the table's height, x_m aside."""
    masks = np.zeros((48, 64), np.int32)
    masks[10:20, 10:20], masks[30:40, 30:50] = 2, 5
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (x_m, 0, 1)
    return View(np.full((48, 64, 3), (200, 20, 30), np.uint8), masks, None, K, T)


def saved(folder: Path, out: Path) -> str:
    assert cli.main(["view", str(folder), "--port", "18080", "--save", str(out)]) == 0
    return out.read_text()


def sent(html: str) -> dict[str, dict[str, Any]]:
    """What the page holds, by name: type, props, wxyz, position."""
    packed = base64.b64decode(re.search(r'__VISER_EMBED_DATA__="([^"]*)"', html)[1])
    raw = zstandard.ZstdDecompressor().decompress(packed[8:], max_output_size=int.from_bytes(packed[:8], "little"))
    messages = msgspec.msgpack.decode(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["messages"]
    nodes: dict[str, dict[str, Any]] = {}
    for _, message in messages:
        kind = message.pop("type")
        nodes.setdefault(message.get("name", kind), {}).update({kind: True} | message)
    return nodes


def test_the_file_holds_every_object_where_it_stands_and_every_camera(tmp_path: Path) -> None:
    folder = exporting.write(tmp_path)
    placed = read_scene(folder)[1]
    assert placed is not None
    views = [view(-1.0), view(-0.5)]
    meta = (folder / "scene.json").read_text()
    cameras = '{"width": 64, "height": 48, "intrinsics": null, "T_world_camera": [], "stamp_ns": 1}'
    (folder / "scene.json").write_text(meta.replace('"views": []', f'"views": [{cameras}, {cameras}]'))
    document_scene(folder, views, placed)
    html = saved(folder, tmp_path / "scene.html")
    assert not re.search(r'(src|href)="https?:', html), "nothing is fetched"
    nodes = sent(html)
    for o in placed:
        node = nodes[f"/objects/{o.id}"]
        mesh = trimesh.load_scene(trimesh.util.wrap_as_stream(node["props"]["glb_data"]), file_type="glb").to_mesh()
        turned = Rotation.from_quat(node["wxyz"], scalar_first=True).apply(mesh.vertices * node["props"]["scale"])
        np.testing.assert_allclose(exporting.in_order(turned + node["position"]), exporting.points_m(o.id), atol=2e-4)
        assert nodes[f"/labels/{o.id}"]["props"]["text"] == f"{o.id} {o.label} 0.90"
        assert nodes[f"/labels/{o.id}"]["position"][2] > exporting.points_m(o.id)[:, 2].max() - 1e-3, "above it"
    for i, one in enumerate(views):
        node = nodes[f"/cameras/{i}"]
        assert node["props"]["fov"] == pytest.approx(2 * np.arctan(24 / 70))
        np.testing.assert_allclose(node["position"], one.T_world_camera[:3, 3])
        turn = Rotation.from_quat(node["wxyz"], scalar_first=True).as_matrix()
        np.testing.assert_allclose(turn, one.T_world_camera[:3, :3], atol=1e-9)
        assert node["props"]["_image_data"][:2] == b"\xff\xd8", "a JPEG"


def test_scenes_that_were_not_placed_or_stand_in_a_camera(tmp_path: Path) -> None:
    unplaced = shown_scene(exporting.write(tmp_path, placed=False))
    scene = read_scene(tmp_path / "known")[0]
    assert [o.metric for o in unplaced.objects] == [False] * 3 and unplaced.up == (0, 0, 1)
    for i, o in enumerate(unplaced.objects):
        T = o.T_world_object.copy()
        T[:3, :3] *= o.scale
        np.testing.assert_allclose(T, scene.T_query_asset(i), atol=1e-12)
    camera = shown_scene(exporting.write(tmp_path, metric=False, name="camera"))
    assert camera.up == (0, -1, 0), "up in an optical frame"
    assert camera.objects[0].scale == 1.0


def test_the_box_is_the_meshs_and_not_the_unit_box(tmp_path: Path) -> None:
    folder = exporting.write(tmp_path)
    lifted = exporting.box()
    lifted.apply_translation([0.0, 0.0, 0.3])
    (folder / "objects" / "2.glb").write_bytes(mesh_to_glb(lifted))
    o = shown_scene(folder).objects[0]
    np.testing.assert_allclose(
        o.T_world_box[:3, 3], o.T_world_object[:3, 3] + o.T_world_object[:3, :3] @ [0, 0, 0.3 * o.scale], atol=1e-6
    )
    assert mesh_from_glb(o.glb or b"").bounds[1, 2] == pytest.approx(0.425, abs=1e-6)


def test_what_cannot_be_shown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["view", str(tmp_path), "--save", str(tmp_path / "x.html")]) == 2
    assert "not a readable scene" in capsys.readouterr().err
    folder = exporting.write(tmp_path)
    assert cli.main(["view", str(folder), "--save", str(tmp_path / "none" / "x.html")]) == 2
    assert "choose another file" in capsys.readouterr().err


def shows_the_scene(picture: np.ndarray) -> bool:
    """The vase is red on one side, and there are lines in the colour of a high confidence."""
    red, green, blue = picture.reshape(-1, 3).astype(int).T
    vase = (red > 100) & (green < red / 2) & (blue < red / 2)
    lines = (green > red + 40) & (green > blue + 40)
    return np.count_nonzero(vase) > 100 and np.count_nonzero(lines) > 50


@needs_chromium
def test_chromium_draws_the_file(tmp_path: Path) -> None:
    folder = exporting.write(tmp_path)
    saved(folder, tmp_path / "scene.html")
    with open_page((tmp_path / "scene.html").as_uri(), tmp_path / "chromium", (640, 480)) as page:
        page.picture(shows_the_scene)
        outside = [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not page.complaints and not outside
