"""Prompts of a view, as JSON in a request's header. Knows nothing about pixels."""

from __future__ import annotations

from typing import Any

from scenegen.prompts import Point, Prompt
from scenegen.scene import InvalidInput
from scenegen.wire.frames import Header


def encode_prompt(prompt: Prompt) -> Header:
    """One prompt as JSON."""
    return {
        "id": int(prompt.id),
        "label": prompt.label,
        "box": None if prompt.box is None else [float(x) for x in prompt.box],
        "inside": [[float(u), float(v)] for u, v in prompt.inside],
        "outside": [[float(u), float(v)] for u, v in prompt.outside],
    }


def decode_prompts(value: object, view: str) -> tuple[Prompt, ...]:
    """Prompts out of JSON; view: its name, for InvalidInput on what are none."""
    if not isinstance(value, list):
        raise InvalidInput(f"{view} prompts must be a list, got {value!r:.80}")
    try:
        return tuple(_prompt(item) for item in value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidInput(
            f"{view} has a prompt that cannot be read ({error!r:.80}): give id, and box [left, top, right, bottom] or "
            "inside [[u, v], ...], in pixels"
        ) from error


def _prompt(item: Any) -> Prompt:
    box = item.get("box")
    corners = None
    if box is not None:
        left, top, right, bottom = (float(x) for x in box)
        corners = left, top, right, bottom
    if isinstance(item["id"], bool) or not isinstance(item["id"], int):
        raise TypeError(f"id is {item['id']!r:.40}")
    return Prompt(
        item["id"],
        corners,
        _points(item.get("inside", [])),
        _points(item.get("outside", [])),
        str(item.get("label", "")),
    )


def _points(value: Any) -> tuple[Point, ...]:
    return tuple((float(u), float(v)) for u, v in value)
