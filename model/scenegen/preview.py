"""A picture to judge a scene by: what the camera saw, the masks, and the generated objects from the same camera.

Knows nothing about files or windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.placement.sights import FIELD_OF_VIEW
from scenegen.render import Camera, Renderer, Surface
from scenegen.scene import Floats, PlacedObject, View

Picture = NDArray[np.uint8]

_T_UP_CAMERA: Floats = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""A level camera in a frame whose z is up: the lamp hangs above, also where the world is the camera's own frame."""
_PANEL_HEIGHT = 480
_GAP = 8
_CAPTION = 28


def draw_preview(view: View, placed: Sequence[PlacedObject]) -> Picture:
    """uint8 [h, w, 3]: image, masks and generated scene side by side, with captions."""
    return side_by_side(
        [
            ("input", view.image),
            ("masks", draw_masks(view)),
            ("generated, from the same camera", draw_objects(view, placed)),
        ]
    )


def draw_masks(view: View) -> Picture:
    """The image, darkened, with every instance in a colour of its own: uint8 [H, W, 3]."""
    drawn = view.image.astype(np.float32) * 0.35
    for index, instance in enumerate(view.instance_ids):
        drawn[view.masks == instance] = 0.4 * view.image[view.masks == instance] + 0.6 * colour_of(index)
    return drawn.astype(np.uint8)


def draw_objects(view: View, placed: Sequence[PlacedObject]) -> Picture:
    """Placed objects on white as the view's camera sees them: uint8 [H, W, 3].

    As in place_scene: objects that are not metric stand in the camera's frame, and without intrinsics the horizontal
    field of view is taken to be 50 degrees.
    """
    return _render(view, placed)[0]


def draw_outlines(view: View, placed: Sequence[PlacedObject], picture: Picture) -> Picture:
    """Where the view's camera sees the edges of placed objects, drawn on a picture of it: uint8 [H, W, 3].

    A line for each object on a dark rim, in the colour that draw_masks gives its id.
    """
    instances = _render(view, placed)[1]
    drawn = picture.copy()
    outlines = [
        cv2.findContours((instances == i + 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        for i in range(len(placed))
    ]
    for outline in outlines:
        cv2.drawContours(drawn, outline, -1, (0, 0, 0), 4, cv2.LINE_AA)
    for o, outline in zip(placed, outlines, strict=True):
        colour = colour_of(int(np.searchsorted(view.instance_ids, o.id)))
        cv2.drawContours(drawn, outline, -1, colour.tolist(), 2, cv2.LINE_AA)
    return drawn


def draw_overlay(view: View, placed: Sequence[PlacedObject]) -> Picture:
    """Placed objects, half transparent and outlined, over what the view's camera saw: uint8 [H, W, 3].

    As RViz shows them in its camera display, so that a pose that is off stands out.
    """
    picture, instances = _render(view, placed)
    drawn, covered = view.image.copy(), instances > 0
    drawn[covered] = (drawn[covered].astype(np.uint16) + picture[covered]) // 2
    return draw_outlines(view, placed, drawn)


def _render(view: View, placed: Sequence[PlacedObject]) -> tuple[Picture, NDArray[np.int32]]:
    """Picture uint8 [H, W, 3] and instances int32 [H, W], index in placed + 1, 0 where nothing is."""
    height, width = view.masks.shape
    if not placed:
        return np.full((height, width, 3), 255, np.uint8), np.zeros((height, width), np.int32)
    stage = Stage.of(view, placed)
    picture, _, instances = stage.renderer.render(stage.camera, stage.T_up_camera)
    return picture, instances


@dataclass(frozen=True, eq=False)
class Stage:
    """Placed objects ready to be drawn, in a frame whose z is up, and the camera of a view among them.

    T_up_camera: float64 [4, 4].
    """

    renderer: Renderer
    camera: Camera
    T_up_camera: Floats

    @staticmethod
    def of(view: View, placed: Sequence[PlacedObject]) -> Stage:
        """At least one object is needed. Which camera is taken where none is known: see draw_objects."""
        height, width = view.masks.shape
        camera = Camera.pinhole(width, height, width / 2 / np.tan(FIELD_OF_VIEW / 2))
        if view.intrinsics is not None:
            camera = Camera(width, height, view.intrinsics)
        posed = view.T_world_camera is not None and all(o.metric for o in placed)
        T_up_world = np.eye(4) if posed else _T_UP_CAMERA
        T_up_camera = view.T_world_camera if posed and view.T_world_camera is not None else _T_UP_CAMERA
        poses = [T_up_world @ o.T_world_asset for o in placed]
        return Stage(Renderer([Surface.from_mesh(o.asset.mesh) for o in placed], poses), camera, T_up_camera)


def colour_of(index: int) -> NDArray[np.float32]:
    """float32 [3] RGB 0..255 of the index-th object: hues far apart for neighbours."""
    hue = np.array([[[(index * 67) % 180, 200, 255]]], np.uint8)
    return cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def rows(pictures: Sequence[Picture]) -> Picture:
    """Pictures uint8 [h, w, 3] one under the other, filled up with white on the right."""
    width = max(picture.shape[1] for picture in pictures)
    filled = [np.pad(p, ((0, _GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return np.concatenate(filled)[:-_GAP]


def side_by_side(panels: Sequence[tuple[str, Picture]], high: int = _PANEL_HEIGHT) -> Picture:
    """Captioned pictures in a row, all `high` pixels high: uint8 [h, w, 3]."""
    columns = []
    for caption, picture in panels:
        height, width = picture.shape[:2]
        size = (max(1, round(width * high / height)), high)
        column = np.full((high + _CAPTION, size[0] + _GAP, 3), 255, np.uint8)
        column[_CAPTION:, : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        cv2.putText(column, caption, (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(column)
    return np.concatenate(columns, axis=1)[:, :-_GAP]
