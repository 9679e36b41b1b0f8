"""The node adds views and a contact sheet to each scene's folder, and lets nothing wait for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import exporting
import numpy as np
import rclpy
from ros_helpers import SIZE, rig, wait_for
from serving import StubGenerator, running

from scenegen.documents import scene_views
from scenegen.files import list_scenes, read_scene
from scenegen_ros.scene_store import SceneStore


def test_views_and_contact_sheet_of_what_was_made(ros_context: rclpy.Context, tmp_path: Path) -> None:
    generator = StubGenerator(textures=True, released=2)
    with running(generator, tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as it:
        result = it.ears.generate(views=1)
        assert result.success, result.message
        (folder,) = list_scenes(tmp_path / "scenes")
        wait_for((folder / "contact_sheet.png").exists, "the contact sheet")
    (view,) = scene_views(folder)
    assert view.masks.shape == SIZE and view.instance_ids == (1, 2)
    assert view.depth_m is not None and view.T_world_camera is not None and view.stamp_ns > 0
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet is not None and sheet.shape[0] > 600 and len(np.unique(sheet)) > 20


def test_a_disk_that_refuses_is_told_and_nothing_more(tmp_path: Path) -> None:
    scene, placed, _ = read_scene(exporting.write(tmp_path / "source"))
    said: list[str] = []
    store = SceneStore(str(tmp_path / "store"), 3, said.append)
    stored = store.save(scene, placed or (), [], "map", 1)
    shutil.rmtree(stored.folder)
    store.document(stored, [])
    store.close()
    assert len(said) == 1 and "cannot add views and contact sheet" in said[0]
