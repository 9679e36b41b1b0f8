"""What the stages between the topics and the server report: TF, pairing, views.

Rules over what the collector and the transforms count, on a steady clock in seconds; knows nothing about ROS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenegen_ros.diagnostics import Level, Status, TopicMonitor
from scenegen_ros.transforms import TransformBuffer, TransformError
from scenegen_ros.view_collector import NO_TF, ViewCollector

_MOST_FRAMES = 30
_TF_CAUSES = {kind.cause for kind in TransformError.__subclasses__()}


def tf_status(fixed_frame: str, collector: ViewCollector, transforms: TransformBuffer, broken: str) -> Status:
    """broken: what is wrong with a transform that was refused; empty when none was."""
    if not fixed_frame:
        return Status("TF", Level.OK, "not used: fixed_frame is empty")
    frames = transforms.frames
    values: dict[str, object] = {
        "fixed frame": fixed_frame,
        "images that wait": collector.waiting_for_tf,
        "frames": ", ".join(frames[:_MOST_FRAMES]) + (", ..." if len(frames) > _MOST_FRAMES else "") or "none",
    }
    values |= {f"images lost: {cause}": n for cause, n in sorted(collector.lost.items()) if cause in _TF_CAUSES}
    if broken:
        values["broken transform"] = broken
    if collector.problem.startswith(NO_TF):
        told = f"{collector.problem}; {broken}" if broken else collector.problem
        return Status("TF", Level.WARN, told, values)
    return Status("TF", Level.OK, "answers", values)


class PairingReport:
    """Whether the messages of one moment meet. Remembers when they last did."""

    def __init__(self) -> None:
        self._paired, self._paired_at_s = 0, 0.0

    def status(
        self, collector: ViewCollector, monitors: Mapping[str, TopicMonitor], topics: Sequence[Status], now_s: float
    ) -> Status:
        """topics: the statuses of the monitors; while one of them is not well, pairing is not to blame."""
        if collector.paired != self._paired:
            self._paired, self._paired_at_s = collector.paired, now_s
        lost = {
            cause: count
            for cause, count in sorted(collector.lost.items())
            if cause not in _TF_CAUSES and not cause.startswith("unusable ")
        }
        values: dict[str, object] = {"sets": self._paired, **{f"lost: {cause}": n for cause, n in lost.items()}}
        patience_s = max(monitor.patience_s() for monitor in monitors.values())
        if now_s - self._paired_at_s <= patience_s or any(s.level != Level.OK for s in topics):
            return Status("pairing", Level.OK, f"{self._paired} sets so far", values)
        offsets = _offsets(monitors)
        values |= {f"stamps of {name} against the image's": told for name, told in offsets.items()}
        apart = ", ".join(f"{name} {told}" for name, told in offsets.items())
        causes = ", ".join(f"{count} {cause}" for cause, count in lost.items()) or "nothing yet"
        message = (
            "all topics speak but their stamps do not meet within half a frame: masks, depth and camera_info must "
            f"carry the stamp of their image (newest stamps against the image's: {apart}; lost: {causes})"
        )
        return Status("pairing", Level.WARN, message, values)


def _offsets(monitors: Mapping[str, TopicMonitor]) -> dict[str, str]:
    """How far the newest stamp of each topic is from the image's."""
    image_ns = monitors["image"].newest_stamp_ns
    stamps = {name: monitor.newest_stamp_ns for name, monitor in monitors.items() if name != "image"}
    return {
        name: f"{(stamp - image_ns) / 1e9:+.3f} s"
        for name, stamp in stamps.items()
        if stamp is not None and image_ns is not None
    }


def views_status(collector: ViewCollector) -> Status:
    """What is kept, and why other images are not."""
    kept = collector.views()
    values: dict[str, object] = {"kept": len(kept), "most": collector.parameters.max_views}
    values |= {
        f"view at {k.view.stamp_ns / 1e9:.3f} s": f"sees {sorted(k.ids)}"
        + ("" if k.view.depth_m is not None else ", without depth")
        for k in kept
    }
    values |= {f"not kept: {cause}": count for cause, count in sorted(collector.passed.items())}
    values |= {f"not kept: {c}": n for c, n in sorted(collector.lost.items()) if c.startswith("unusable ")}
    if collector.problem and not collector.problem.startswith(NO_TF):
        message = f"{len(kept)} kept, the newest images are lost: {collector.problem}"
        return Status("views", Level.WARN, message, values)
    if not kept:
        return Status("views", Level.WARN, "none kept yet", values)
    return Status("views", Level.OK, f"{len(kept)} kept", values)
