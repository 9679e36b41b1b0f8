"""Boxes in place of masks, over real topics: node, server with a random-weights SAM 2, masks, scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from ros_helpers import BEST_EFFORT, SIZE, Rig, fast_place, rig, wait_for
from segmenting import save_segmenter
from serving import StubGenerator, running
from test_detections import detection
from vision_msgs.msg import Detection2D, Detection2DArray

from scenegen.prompts import Prompt, with_prompts
from scenegen.scene import Scene, View
from scenegen.segmentation import Segmenter
from scenegen_ros import generation
from scenegen_ros.conversions import image_message

LEFT, RIGHT = (6.0, 10.0, 26.0, 34.0), (34.0, 12.0, 58.0, 40.0)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.from_pretrained(save_segmenter(tmp_path_factory.mktemp("sam2")))


class Remembers(StubGenerator):
    """The stub, which keeps what it was sent."""

    sent: Sequence[View] = ()

    def generate(self, views: Sequence[View], **how: Any) -> Scene:
        self.sent = views
        return super().generate(views, **how)


@contextmanager
def prompted_rig(
    context: rclpy.Context, server: str, folder: Path, *detections: Detection2D, **parameters: Any
) -> Iterator[Rig]:
    """A node whose camera publishes boxes and no masks."""
    with rig(context, server, folder, segmentation="sam2", **parameters) as r:
        shot = r.camera.shot
        shot.image = image_message(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8), "rgb8")
        shot.detections_2d = Detection2DArray(detections=list(detections))
        shot.topics = {*shot.topics, "detections_2d"} - {"masks"}
        r.camera.outputs["detections_2d"] = r.camera.create_publisher(Detection2DArray, "detections_2d", BEST_EFFORT)
        yield r


def test_boxes_become_masks_and_masks_a_scene(
    ros_context: rclpy.Context, tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "place_scene", fast_place)
    generator = Remembers()
    boxes = detection(*RIGHT, "40", can=0.9), detection(*LEFT, "7", cup=0.8)
    with (
        running(generator, tmp_path / "s", segmenter=segmenter) as server,
        prompted_rig(ros_context, server, tmp_path / "scenes", *boxes) as r,
    ):
        r.ears.says("1 kept", stage="views")
        r.camera.shot.x_m = 1.0
        result = r.ears.generate(views=2)
        assert result.success, result.message
        assert {o.id: o.label for o in result.scene.objects} == {40: "can", 7: "cup"}
        wait_for(lambda: "segmentation" in {feedback.stage for feedback in tuple(r.ears.feedback)}, "its feedback")
        r.ears.told(lambda said: "detections_2d" in said and "masks" not in said, "boxes to be waited for, not masks")
        assert len(generator.sent) == 2
        for view in generator.sent:
            assert view.depth_m is not None and view.intrinsics is not None and view.T_world_camera is not None
        here = segmenter.segment([with_prompts(v, (Prompt(40, RIGHT), Prompt(7, LEFT))) for v in generator.sent])
        for view, mine in zip(generator.sent, here, strict=True):
            assert set(mine.instance_ids) == {7, 40}
            np.testing.assert_array_equal(view.masks, mine.masks)


def test_boxes_without_ids_are_of_one_view_and_found_in_the_others(
    ros_context: rclpy.Context, tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "place_scene", fast_place)
    generator = Remembers()
    with (
        running(generator, tmp_path / "s", segmenter=segmenter) as server,
        prompted_rig(ros_context, server, tmp_path / "scenes", detection(*RIGHT, can=0.9), detection(*LEFT)) as r,
    ):
        r.ears.says("1 kept", stage="views")
        r.camera.shot.detections_2d.detections.reverse()  # the detector numbers the same objects anew
        r.camera.shot.x_m = 1.0
        result = r.ears.generate(views=2)
        assert result.success, result.message
        first, second = sorted(generator.sent, key=lambda v: v.stamp_ns)
        boxes = (Prompt(1, LEFT), Prompt(2, RIGHT))
        earlier, later = segmenter.segment([with_prompts(first, ()), with_prompts(second, boxes)])
        np.testing.assert_array_equal(second.masks, later.masks)
        np.testing.assert_array_equal(first.masks, earlier.masks)


def test_a_server_without_a_segmenter_and_boxes_of_another_image_are_named(
    ros_context: rclpy.Context, tmp_path: Path
) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        prompted_rig(ros_context, server, tmp_path / "scenes", detection(*LEFT)) as r,
    ):
        r.ears.says("waiting for server", "has no segmenter", "--segmenter FOLDER")
        result = r.ears.generate()
        assert not result.success and "start it with `scenegen serve --segmenter FOLDER`" in result.message
        r.camera.shot.detections_2d = Detection2DArray(detections=[detection(300, 200, 400, 300)])
        r.camera.shot.x_m = 1.0
        r.ears.says("1 boxes, none of which is in the image of 64 x 48 pixels")
        r.camera.shot.detections_2d = Detection2DArray()
        r.ears.says("detections_2d holds no box: does the detector find anything?")
