"""A contact sheet: everything about one scene that a person judges it by, in one picture.

The views with the outlines of their masks, the generated objects from the first view's camera and from another side,
and a row of figures for each object. Knows nothing about files or windows; the parts are those of preview.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from scenegen.preview import Picture, Stage, colour_of, draw_objects, draw_overlay, rows, side_by_side
from scenegen.render import Camera, look_at
from scenegen.scene import Floats, PlacedObject, View

MOST_VIEWS = 8
"""Views on one sheet; of more, as many are picked evenly."""
_VIEWS_IN_A_ROW = 4
_VIEW_HEIGHT, _RENDER_HEIGHT = 240, 320
_TURN_DEG, _LEAST_ELEVATION_DEG = 130.0, 25.0
_LINE = 26
_COLUMNS = (30, 100, 290, 390, 660, 800, 960)
"""Left edges in pixels of id, label, detail, size, residual, confidence in figures and as a bar."""
_BAR = 120

Colours = Mapping[int, NDArray[np.float32]]


def draw_contact_sheet(views: Sequence[View], placed: Sequence[PlacedObject]) -> Picture:
    """uint8 [h, w, 3] of at least one view and the objects generated from them, in the order of the table."""
    ids = sorted({i for view in views for i in view.instance_ids} | {o.id for o in placed})
    colours = {instance: colour_of(index) for index, instance in enumerate(ids)}
    shown = sorted({round(i) for i in np.linspace(0, len(views) - 1, min(len(views), MOST_VIEWS))})
    panels = [(f"view {i}", draw_mask_outlines(views[i], colours)) for i in shown]
    parts = [
        side_by_side(panels[i : i + _VIEWS_IN_A_ROW], _VIEW_HEIGHT) for i in range(0, len(panels), _VIEWS_IN_A_ROW)
    ]
    sides = [("generated, over view 0", draw_overlay(views[0], placed))]
    sides.append(("generated, from the camera of view 0", draw_objects(views[0], placed)))
    if placed:
        sides.append(("generated, from another side", draw_from_another_side(views[0], placed)))
    parts += [side_by_side(sides, _RENDER_HEIGHT), _table(placed, colours)]
    return rows(parts)


def draw_mask_outlines(view: View, colours: Colours) -> Picture:
    """The view's image with a line around each instance in the colour of its id, and the id: uint8 [H, W, 3]."""
    drawn = view.image.copy()
    thick = max(2, round(view.image.shape[0] / 160))
    for instance in view.instance_ids:
        inside = (view.masks == instance).astype(np.uint8)
        outlines = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(drawn, outlines, -1, colours[instance].tolist(), thick, cv2.LINE_AA)
        left, top, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
        at = (left + width // 2 - 4 * thick, top + height // 2 + 4 * thick)
        for colour, line in (((0, 0, 0), 2 * thick), ((255, 255, 255), thick)):
            cv2.putText(drawn, str(instance), at, cv2.FONT_HERSHEY_SIMPLEX, 0.35 * thick, colour, line, cv2.LINE_AA)
    return drawn


def draw_from_another_side(view: View, placed: Sequence[PlacedObject]) -> Picture:
    """Placed objects as a camera sees them that has gone around them, looking down at them: uint8 [480, 640, 3]."""
    stage = Stage.of(view, placed)
    low, high = stage.renderer.boxes[:, 0].min(0), stage.renderer.boxes[:, 1].max(0)
    centre, radius = (low + high) / 2.0, float(np.linalg.norm(high - low)) / 2
    camera = Camera.pinhole()
    outwards = _turned(stage.T_up_camera[:3, 3] - centre)
    # So far that the ball around all objects fits the narrower half of the picture.
    half = math.atan2(camera.height / 2, camera.intrinsics[1, 1])
    eye = centre + outwards * radius / math.sin(half)
    picture, _, _ = stage.renderer.render(camera, look_at(eye, centre.astype(float)))
    return picture


def _turned(direction: Floats) -> Floats:
    """A direction turned about z, and no flatter than the least elevation: float64 [3], unit."""
    heading = math.atan2(direction[1], direction[0]) + math.radians(_TURN_DEG)
    flat = math.hypot(direction[0], direction[1])
    rise = np.clip(math.atan2(direction[2], flat), math.radians(_LEAST_ELEVATION_DEG), math.radians(60.0))
    return np.array([math.cos(rise) * math.cos(heading), math.cos(rise) * math.sin(heading), math.sin(rise)])


def _table(placed: Sequence[PlacedObject], colours: Colours) -> Picture:
    unit = "m" if all(o.metric for o in placed) else "query sizes"
    picture = np.full(((len(placed) + 1) * _LINE + 8, _COLUMNS[-1] + _BAR + 10, 3), 255, np.uint8)
    _write(picture, 0, ("id", "label", "detail", f"size [{unit}]", "residual", "confidence"), (110, 110, 110))
    for line, o in enumerate(placed, start=1):
        size = " x ".join(f"{x:.3f}" for x in o.size_m)
        residual = "-" if math.isnan(o.residual_m) else f"{1000 * o.residual_m:.1f} mm"
        words = (str(o.id), o.label[:22], o.asset.detail, size, residual, f"{o.confidence:.2f}")
        _write(picture, line, words, (0, 0, 0))
        middle = line * _LINE + _LINE // 2 + 4
        cv2.rectangle(picture, (6, middle - 7), (22, middle + 7), colours[o.id].tolist(), cv2.FILLED)
        left, share = _COLUMNS[-1], float(np.clip(o.confidence, 0, 1))
        cv2.rectangle(picture, (left, middle - 7), (left + _BAR, middle + 7), (225, 225, 225), cv2.FILLED)
        end = (left + round(_BAR * share), middle + 7)
        cv2.rectangle(picture, (left, middle - 7), end, confidence_colour(share), cv2.FILLED)
    return picture


def _write(picture: Picture, line: int, words: Sequence[str], colour: tuple[int, int, int]) -> None:
    for left, word in zip(_COLUMNS, words, strict=False):
        at = (left, line * _LINE + _LINE - 4)
        cv2.putText(picture, word, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def confidence_colour(confidence: float) -> tuple[int, int, int]:
    """Red for 0, through yellow, to green for 1: RGB 0..255."""
    hue = np.uint8(np.rint(60 * np.clip(confidence, 0.0, 1.0)))
    red, green, blue = cv2.cvtColor(np.array([[[hue, 190, 215]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue
