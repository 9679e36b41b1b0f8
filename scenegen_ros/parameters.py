"""Every parameter of the node: name, type, default, range and one line on what it does, in one typed table.

`python -m scenegen_ros.parameters --write` writes config/scenegen.yaml and docs/parameters.md from it; a test holds
them equal. The table itself needs no ROS.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scenegen.placement import sizes_by_label
from scenegen.scene import DETAILS, Detail, InvalidInput

if TYPE_CHECKING:
    from rclpy.node import Node

ROOT = Path(__file__).resolve().parents[1]


def _row(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    return field(
        default=default,
        metadata={"description": description, "low": low, "high": high, "choices": choices, "read_only": read_only},
    )


@dataclass(frozen=True)
class Parameters:
    """One field per parameter; reading one of the node's gives this. InvalidInput on a value outside its choices."""

    server: str = _row(
        "unix:~/.ros/scenegen.sock",
        "Generation server: unix:/path/to.sock, http://host:port or https://host:port.",
        read_only=True,
    )
    token_file: str = _row("", "File with the server's bearer token. Empty: no token.", read_only=True)
    ca_file: str = _row(
        "",
        "PEM of the authority that signed the server's certificate. Empty: the public ones are trusted.",
        read_only=True,
    )
    output_dir: str = _row(
        "~/.ros/scenegen", "Where scenes are kept, one folder each; the newest is announced at start.", read_only=True
    )
    keep_scenes: int = _row(
        50,
        "Scenes that stay in output_dir; each new one beyond takes the oldest away.",
        low=2,
        high=10_000,
        read_only=True,
    )
    fixed_frame: str = _row(
        "map",
        "Frame of every pose, with z pointing up; TF must join it to the camera. Empty: no TF is needed, poses are in "
        "the camera's frame and one view is used.",
        read_only=True,
    )
    image_transport: str = _row(
        "auto",
        "Which image topic is used: raw (image), compressed (image/compressed) or auto (whichever speaks).",
        choices=("auto", "raw", "compressed"),
        read_only=True,
    )
    segmentation: str = _row(
        "topic",
        "Where masks come from: topic (masks), or sam2 (the server makes them of the boxes on detections_2d; it must "
        "have been started with --segmenter).",
        choices=("topic", "sam2"),
        read_only=True,
    )
    depth: str = _row(
        "auto",
        "Whether a view needs depth (an image, or points): auto (when either is published), required or off. Without "
        "depth nothing is metric.",
        choices=("auto", "required", "off"),
        read_only=True,
    )
    rectify: str = _row(
        "auto",
        "Whether image, masks and depth come as the lens in camera_info distorts them: auto (yes, unless a part of the "
        "image topic's name is rect: image_rect and the like), always or never.",
        choices=("auto", "always", "never"),
        read_only=True,
    )
    association: str = _row(
        "id",
        "What makes instances of several views one object: id (the segmentation's ids mean the same in every image) or "
        "overlap (they number each image for itself; objects are told by the space they take up, which needs depth).",
        choices=("id", "overlap"),
        read_only=True,
    )
    planning_scene: bool = _row(
        False,
        "Give the metric objects of each scene to MoveIt, as collision objects of convex pieces, by the service "
        "apply_planning_scene. Needs moveit_msgs, coacd and a fixed_frame.",
        read_only=True,
    )
    queue_size: int = _row(
        30,
        "Messages per topic that wait for partners of the same stamp; at 30 Hz, 30 allow a segmentation 1 s late "
        "and hold up to 0.6 GB of 1920x1080 images.",
        low=2,
        high=1000,
        read_only=True,
    )
    tf_timeout_s: float = _row(
        0.5, "How long a set of images waits for TF at its stamp, in seconds.", low=0.0, high=60.0
    )
    max_views: int = _row(
        8, "Views held at most; when full, the one goes whose angle the others cover best.", low=1, high=16
    )
    min_translation_m: float = _row(
        0.1, "A view is kept when the camera stands this far from every kept view, in metres, ...", low=0.0, high=100.0
    )
    min_rotation_deg: float = _row(
        10.0, "... or looks this far away from every kept view near it, in degrees.", low=0.0, high=180.0
    )
    view_timeout_s: float = _row(
        30.0,
        "How long a generation waits for the views it needs before it gives up with the reason, in seconds.",
        low=0.0,
        high=3600.0,
    )
    auto_generate: bool = _row(
        False, "Generate by itself whenever views_to_start views have been kept since the last generation."
    )
    views_to_start: int = _row(4, "New views that auto_generate waits for.", low=1, high=16)
    detail: Detail = _row(
        "textured",
        "How finished meshes are: textured (where the server's weights can; the coarse scene is announced seconds "
        "earlier, then again under the same id) or coarse.",
        choices=DETAILS,
    )
    track: bool = _row(
        True,
        "Follow the objects of earlier scenes: one that stands where it stood, or was moved, keeps its mesh and gets "
        "its pose of now, and only what is new, has changed or is named in a goal's ids is generated. Needs depth, "
        "calibration and a fixed_frame. False: each goal generates everything it asks for, and its scene holds nothing "
        "else.",
    )
    known_size: tuple[str, ...] = _row(
        ("",),
        "Largest extents in metres by label, as 'mug=0.095': they give metres where neither depth nor a camera that "
        "moved does.",
    )
    seed: int = _row(42, "Seed of the sampler for auto_generate.", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check({row.name: getattr(self, row.name) for row in fields(self)})

    @property
    def known_sizes(self) -> dict[str, float]:
        """Metres by label."""
        return sizes_by_label(self.known_size)


def check(values: Mapping[str, object]) -> None:
    """InvalidInput when a parameter's value, by its name, is outside its choices."""
    for row in fields(Parameters):
        choices = row.metadata["choices"]
        if choices and row.name in values and values[row.name] not in choices:
            raise InvalidInput(f"parameter {row.name} is '{values[row.name]}', it must be one of: {', '.join(choices)}")
    sizes_by_label(cast(Sequence[str], values.get("known_size", ())))


def declare(node: Node) -> None:
    """Declares every parameter on a node, with its description and range."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for row in fields(Parameters):
        meta = row.metadata
        descriptor = ParameterDescriptor(description=meta["description"], read_only=meta["read_only"])
        if meta["choices"]:
            descriptor.additional_constraints = f"one of: {', '.join(meta['choices'])}"
        if meta["low"] is not None and isinstance(row.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(meta["low"]), to_value=int(meta["high"]), step=0)]
        elif meta["low"] is not None:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(meta["low"]), to_value=float(meta["high"]), step=0.0)
            ]
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        node.declare_parameter(row.name, default, descriptor)


def read(node: Node) -> Parameters:
    """The node's parameters as they stand. InvalidInput on a value outside its choices."""
    values: dict[str, Any] = {row.name: node.get_parameter(row.name).value for row in fields(Parameters)}
    values["known_size"] = tuple(values["known_size"])
    return Parameters(**values)


def _limits(meta: Any) -> str:
    if meta["choices"]:
        return ", ".join(meta["choices"])
    return "" if meta["low"] is None else f"{meta['low']:g} to {meta['high']:g}"


def yaml_text() -> str:
    """config/scenegen.yaml: every parameter at its default."""
    lines = [
        "# Every parameter of the scenegen node at its default. Written by: python -m scenegen_ros.parameters --write",
        "/**:",
        "  ros__parameters:",
    ]
    for row in fields(Parameters):
        limits = _limits(row.metadata)
        lines.append(f"    # {row.metadata['description']}" + (f" [{limits}]" if limits else ""))
        lines.append(f"    {row.name}: {json.dumps(row.default)}")
    return "\n".join(lines) + "\n"


def markdown_text() -> str:
    """docs/parameters.md: the table for people."""
    lines = [
        "# Parameters of the `scenegen` node",
        "",
        "Written by `python -m scenegen_ros.parameters --write` from `scenegen_ros/parameters.py`; edit that file.",
        "Fixed parameters are set at start (launch file, `params_file`, `--ros-args -p`); the others also at run",
        "time.",
        "QoS of `image`, `image/compressed`, `masks`, `detections_2d`, `depth`, `points` and `camera_info` follows the",
        "usual parameters, for example `qos_overrides./masks.subscription.reliability: reliable`.",
        "",
        "| parameter | type | default | allowed | fixed | what it does |",
        "|---|---|---|---|---|---|",
    ]
    for row in fields(Parameters):
        meta = row.metadata
        kind = "str[]" if isinstance(row.default, tuple) else type(row.default).__name__
        lines.append(
            f"| `{row.name}` | {kind} | `{json.dumps(row.default)}` | {_limits(meta)} "
            f"| {'yes' if meta['read_only'] else ''} | {meta['description']} |"
        )
    return "\n".join(lines) + "\n"


FILES = {ROOT / "config" / "scenegen.yaml": yaml_text, ROOT / "docs" / "parameters.md": markdown_text}
"""What is generated, and from what."""


def main() -> None:
    """Writes the generated files, or prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write config/scenegen.yaml and docs/parameters.md")
    write = parser.parse_args().write
    for path, text in FILES.items():
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text())
        else:
            print(text())


if __name__ == "__main__":
    main()
