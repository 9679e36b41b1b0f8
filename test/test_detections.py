"""Boxes of a detector as prompts: ids, labels, clipping, turned boxes, lenses, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from scenegen.prompts import Prompt, with_prompts
from scenegen.scene import InvalidInput, View
from scenegen_ros.detections import decode_detections
from scenegen_ros.rectification import Lens

SIZE = (48, 64)
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])


def detection(left: float, top: float, right: float, bottom: float, id: str = "", **labels: float) -> Detection2D:
    """A box, and what it may be with which score."""
    made = Detection2D(id=id)
    made.bbox.center.position.x, made.bbox.center.position.y = (left + right) / 2, (top + bottom) / 2
    made.bbox.size_x, made.bbox.size_y = float(right - left), float(bottom - top)
    for label, score in labels.items():
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = label, score
        made.results.append(result)
    return made


def decode(*detections: Detection2D, lens: Lens | None = None) -> tuple[tuple[Prompt, ...], bool]:
    return decode_detections(Detection2DArray(detections=list(detections)), SIZE, lens)


def test_ids_of_a_tracker_are_kept_and_the_likeliest_label() -> None:
    prompts, tracked = decode(
        detection(1, 2, 11, 22, "40", bowl=0.2, cup=0.7),
        detection(30, 20, 60.5, 40, "7", can=0.9),
        detection(0, 0, 4, 4, "8"),
    )
    assert tracked
    assert prompts == (
        Prompt(40, (1.0, 2.0, 11.0, 22.0), label="cup"),
        Prompt(7, (30.0, 20.0, 60.5, 40.0), label="can"),
        Prompt(8, (0.0, 0.0, 4.0, 4.0)),
    )


@pytest.mark.parametrize(
    "ids", [("", ""), ("7", "7"), ("7", ""), ("0", "1"), ("cup", "can"), ("-1", "2"), ("²", "3"), ("9" * 10, "1")]
)
def test_ids_that_are_none_give_way_to_numbers(ids: tuple[str, str]) -> None:
    prompts, tracked = decode(*(detection(1, 2, 11, 22, i) for i in ids))
    assert not tracked and [prompt.id for prompt in prompts] == [1, 2]


def test_boxes_are_clipped_and_those_outside_left_out() -> None:
    prompts, _ = decode(
        detection(-10, 5, 20, 60), detection(70, 5, 90, 20), detection(63.5, 5, 90, 20), detection(10, 10, 20, 20)
    )
    assert [(p.id, p.box) for p in prompts] == [(1, (0.0, 5.0, 20.0, 48.0)), (4, (10.0, 10.0, 20.0, 20.0))]


def test_turned_boxes_are_enclosed() -> None:
    turned = detection(20, 18, 40, 22)
    turned.bbox.center.theta = np.pi / 2
    ((prompt,), _) = decode(turned)
    np.testing.assert_allclose(prompt.box, (28, 10, 32, 30), atol=1e-9)
    turned.bbox.center.theta = np.pi / 6
    ((prompt,), _) = decode(turned)
    half = np.array([10 * np.cos(np.pi / 6) + 2 * 0.5, 10 * 0.5 + 2 * np.cos(np.pi / 6)])
    np.testing.assert_allclose(prompt.box, [*(30 - half[:1]), *(20 - half[1:]), *(30 + half[:1]), *(20 + half[1:])])


@pytest.mark.parametrize(
    ("model", "d"), [("plumb_bob", (-0.35, 0.12, 0.001, -0.001, 0.0)), ("equidistant", (0.1, 0.02, 0.0, 0.0))]
)
def test_a_box_on_a_distorted_image_is_where_its_object_is_in_the_rectified_one(
    model: str, d: tuple[float, ...]
) -> None:
    lens = Lens.of(model, SIZE, K, d, np.eye(3), K)
    assert lens is not None
    u, v = (m.ravel() for m in np.meshgrid(np.linspace(6, 24, 60), np.linspace(4, 20, 60)))
    seen = lens.project(np.stack([(u - K[0, 2]) / 60, (v - K[1, 2]) / 60, np.ones(len(u))], axis=1))
    np.testing.assert_allclose(lens.undo(seen), np.stack([u, v], axis=1), atol=0.05)
    box = detection(*seen.min(axis=0), *seen.max(axis=0))
    ((prompt,), _) = decode(box, lens=lens)
    left, top, right, bottom = prompt.box
    assert left <= 6.05 and top <= 4.05 and right >= 23.95 and bottom >= 19.95, "the object is in its box"
    assert left >= 2.5 and top >= 1 and right <= 26.5 and bottom <= 23, "and the box is not much larger"
    ((plain,), _) = decode(box)
    assert abs(left - plain.box[0]) > 0.5


@pytest.mark.parametrize(
    ("detections", "word"),
    [
        ((), "detections_2d holds no box: does the detector find anything"),
        (
            (detection(100, 100, 200, 200), detection(0, 100, 40, 200)),
            "2 boxes, none of which is in the image of 64 x 48",
        ),
        ((detection(0, 0, float("nan"), 20),), "centre, angle and size .*nan.* broken"),
        ((detection(30, 0, 20, 20),), "detector's message is broken"),
    ],
)
def test_messages_that_cannot_be_used(detections: tuple[Detection2D, ...], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        decode(*detections)


def test_boxes_stand_in_for_masks_the_smaller_before_the_larger() -> None:
    view = View(np.zeros((*SIZE, 3), np.uint8), np.full(SIZE, 9, np.int32))
    prompts = (
        Prompt(2, (10.0, 10.0, 14.0, 14.0)),
        Prompt(1, (8.0, 8.0, 30.0, 30.4)),
        Prompt(3, inside=((60.0, 40.0),)),
    )
    prompted = with_prompts(view, prompts, tracked=False)
    expected = np.zeros(SIZE, np.int32)
    expected[8:30, 8:30] = 1
    expected[10:14, 10:14] = 2
    np.testing.assert_array_equal(prompted.masks, expected)
    assert prompted.instance_ids == (1, 2, 3) and not prompted.tracked
