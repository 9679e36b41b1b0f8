"""A scene as MCAP: read back by another library, with the schemas in the file alone."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import exporting
import numpy as np
import pytest
import trimesh
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from scipy.spatial.transform import Rotation
from test_viewer import view

from scenegen import cli
from scenegen.documents import document_scene
from scenegen.files import read_scene, write_scene
from scenegen.scene import View


def views() -> list[View]:
    """Two, with depth, at 1 and 1.5 s."""
    depth_m = np.full((48, 64), 1.25, np.float32)
    depth_m[0, 0] = 0
    return [replace(view(x), depth_m=depth_m, stamp_ns=s) for x, s in ((-1.0, 10**9), (-0.5, 1_500_000_000))]


def stored(root: Path, seen: list[View], frame_id: str = "map", **options: Any) -> Path:
    scene, placed, _ = read_scene(exporting.write(root / "source", **options))
    folder = write_scene(root, scene, placed, scene_id="one", views=seen, frame_id=frame_id, stamp_ns=1_500_000_000)
    document_scene(folder, seen, placed or ())
    return folder


def read(path: Path) -> list[tuple[str, int, Any]]:
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        messages = [(c.topic, m.log_time, d) for _, c, m, d in reader.iter_decoded_messages()]
        assert {schema.encoding for schema in reader.get_summary().schemas.values()} == {"ros2msg"}
    return messages


def pose(message: Any) -> np.ndarray:
    T = np.eye(4)
    q = getattr(message, "orientation", None) or message.rotation
    at = getattr(message, "position", None) or message.translation
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = at.x, at.y, at.z
    return T


def test_what_the_cameras_saw_and_what_was_made_of_it(tmp_path: Path) -> None:
    seen = views()
    folder, out = stored(tmp_path, seen), tmp_path / "scene.mcap"
    assert cli.main(["record", str(folder), "--out", str(out)]) == 0
    messages = read(out)
    times = [time for _, time, _ in messages]
    assert times == sorted(times)
    for one in seen:
        now = {topic: m for topic, time, m in messages if time == one.stamp_ns and topic != "/tf"}
        for topic, pixels in (("/image", one.image), ("/masks", one.masks), ("/depth", one.depth_m)):
            message = now[topic]
            kind = {"rgb8": np.uint8, "16UC1": np.uint16, "32FC1": np.float32}[message.encoding]
            got = np.frombuffer(message.data, kind).reshape(pixels.shape)
            np.testing.assert_allclose(got, pixels, atol=1e-6)
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == one.stamp_ns
            assert message.header.frame_id == "camera_optical_frame"
        np.testing.assert_allclose(np.reshape(now["/camera_info"].k, (3, 3)), one.intrinsics)
        frames = [t for topic, time, m in messages if topic == "/tf" and time == one.stamp_ns for t in m.transforms]
        camera = next(t for t in frames if t.child_frame_id == "camera_optical_frame")
        np.testing.assert_allclose(pose(camera.transform), one.T_world_camera, atol=1e-9)
        assert camera.header.frame_id == "map"

    placed = read_scene(folder)[1]
    assert placed is not None
    (update,) = [m for topic, _, m in messages if topic == "/scenegen/scene_update"]
    tf = {t.child_frame_id: t for topic, _, m in messages if topic == "/tf" for t in m.transforms}
    assert [e.id for e in update.entities] == ["2", "5", "9"]
    for o, entity in zip(placed, update.entities, strict=True):
        (model,) = entity.models
        assert (entity.frame_id, model.media_type, model.override_color) == ("map", "model/gltf-binary", False)
        np.testing.assert_allclose(pose(model.pose), o.T_world_object, atol=1e-9)
        np.testing.assert_allclose(pose(tf[f"scenegen/{o.id}"].transform), o.T_world_object, atol=1e-9)
        # As Foxglove does: glTF is turned to z up, scaled, then posed.
        mesh = trimesh.load_scene(io.BytesIO(bytes(model.data)), file_type="glb").to_mesh()
        upright = mesh.vertices @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) * model.scale.x
        at = trimesh.transform_points(upright, pose(model.pose))
        np.testing.assert_allclose(exporting.in_order(at), exporting.points_m(o.id), atol=2e-4)
        box = np.array([[p.x, p.y, p.z] for p in entity.lines[0].points])
        assert len(box) == 24
        np.testing.assert_allclose(np.ptp(box, axis=0), o.size_m, atol=1e-9)
        assert entity.texts[0].text == f"{o.id} {o.label} 0.90"


def test_a_scene_in_its_cameras_frame_without_stamps(tmp_path: Path) -> None:
    seen = [replace(v, stamp_ns=0, depth_m=None, T_world_camera=None) for v in views()]
    folder = stored(tmp_path, seen, frame_id="left_optical_frame", metric=False)
    assert cli.main(["record", str(folder), "--out", str(tmp_path / "scene.mcap")]) == 0
    messages = read(tmp_path / "scene.mcap")
    assert not [m for topic, _, m in messages if topic in ("/tf", "/depth")], "neither was known"
    assert [time for topic, time, _ in messages if topic == "/image"] == [500_000_000, 1_000_000_000]
    (update,) = [m for topic, _, m in messages if topic == "/scenegen/scene_update"]
    assert {e.frame_id for e in update.entities} == {"left_optical_frame"}
    assert update.entities[0].texts[0].text.endswith("(not metric)")


def test_what_cannot_be_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = stored(tmp_path, views()), tmp_path / "scene.mcap"
    out.write_text("precious")
    assert cli.main(["record", str(folder), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err and out.read_text() == "precious"
    assert cli.main(["record", str(folder), "--out", str(tmp_path / "none" / "x.mcap")]) == 2
    assert "choose another place" in capsys.readouterr().err
    assert cli.main(["record", str(tmp_path), "--out", str(tmp_path / "y.mcap")]) == 2
    assert not list(tmp_path.glob(".unfinished*"))
