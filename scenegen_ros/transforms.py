"""A small transform tree: what TF said, looked up at a stamp.

tf2_ros is not on PyPI (spec/ros.md), so the project carries these few lines; they need no ROS. Knows nothing about
topics or waiting: an error says whether waiting can help, the caller decides.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from scenegen.scene import Floats, InvalidInput

JUMP_BACK_NS = 500_000_000
"""A stamp this much older than the newest is a clock that ran backwards (simulation reset, bag loop), no reordering."""


class TransformError(LookupError):
    """TF has no answer. may_come: whether waiting for more of TF can help. cause: what is wrong, to count it by."""

    may_come = True
    cause: str


class UnknownFrame(TransformError):
    """A frame TF has never named."""

    cause = "TF has no such frame"


class NotConnected(TransformError):
    """Both frames are known but no chain of transforms joins them."""

    cause = "TF does not join the frames"


class TooNew(TransformError):
    """The stamp is newer than the newest transform of a frame on the way."""

    cause = "TF is behind the image"


class TooOld(TransformError):
    """The stamp is older than the oldest transform still held."""

    may_come = False
    cause = "TF has forgotten the image's stamp"


@dataclass(order=True)
class _Sample:
    stamp_ns: int
    translation: tuple[float, float, float] = field(compare=False)
    quaternion_wxyz: tuple[float, float, float, float] = field(compare=False)

    def matrix(self) -> Floats:
        """T_parent_child, float64 [4, 4]."""
        T = np.eye(4)
        T[:3, :3] = Rotation.from_quat(self.quaternion_wxyz, scalar_first=True).as_matrix()
        T[:3, 3] = self.translation
        return T


@dataclass
class _Frame:
    parent: str
    static: bool
    samples: list[_Sample]


class TransformBuffer:
    """The transforms of the last cache_s seconds per frame, static ones for good. Safe to use from several threads."""

    def __init__(self, cache_s: float = 10.0) -> None:
        """cache_s: how far back stamps can be looked up, as tf2 does."""
        self._cache_ns = int(cache_s * 1e9)
        self._frames: dict[str, _Frame] = {}
        self._lock = threading.Lock()

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: tuple[float, float, float],
        quaternion_wxyz: tuple[float, float, float, float],
        *,
        static: bool = False,
    ) -> None:
        """Takes one transform T_parent_child. A stamp that ran backwards drops what the frame held.

        Kept as it came: TF says thousands of transforms a second and few are ever looked up. InvalidInput when the
        quaternion is zero or a number is not finite.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not any(quaternion_wxyz) or not math.isfinite(sum(translation) + sum(quaternion_wxyz)):
            raise InvalidInput(
                f"the transform '{parent}' -> '{child}' holds {translation} and {quaternion_wxyz}: it must be finite, "
                "with a quaternion that is not zero; its broadcaster is broken"
            )
        sample = _Sample(stamp_ns, translation, quaternion_wxyz)
        with self._lock:
            frame = self._frames.get(child)
            if frame is None or static or frame.static or frame.parent != parent:
                self._frames[child] = _Frame(parent, static, [sample])
                return
            newest = frame.samples[-1].stamp_ns
            if stamp_ns < newest - JUMP_BACK_NS:
                frame.samples = [sample]
            elif stamp_ns > newest:
                frame.samples.append(sample)
            else:
                insort(frame.samples, sample)
            oldest = frame.samples[-1].stamp_ns - self._cache_ns
            del frame.samples[: bisect_left(frame.samples, oldest, key=lambda s: s.stamp_ns)]

    def jumped_back(self, stamp_ns: int) -> None:
        """Time was found to run backwards, to stamp_ns: forgets the frames that are still of the time before.

        Static ones stay, and so do those that jumped first: TF often speaks before the image that shows the jump.
        """
        with self._lock:
            self._frames = {
                name: frame
                for name, frame in self._frames.items()
                if frame.static or frame.samples[-1].stamp_ns <= stamp_ns + JUMP_BACK_NS
            }

    @property
    def frames(self) -> tuple[str, ...]:
        """Every frame TF has named, sorted."""
        with self._lock:
            return tuple(sorted({*self._frames, *(frame.parent for frame in self._frames.values())}))

    def lookup(self, target: str, source: str, stamp_ns: int) -> Floats:
        """T_target_source at the stamp, float64 [4, 4], interpolated. TransformError when there is none."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            known = {*self._frames, *(frame.parent for frame in self._frames.values())}
            for name in (target, source):
                if name not in known and target != source:
                    raise UnknownFrame(
                        f"TF has no frame '{name}' (it knows {', '.join(sorted(known)) or 'none'}): "
                        "is its broadcaster running?"
                    )
            up_source, up_target = self._ancestors(source), self._ancestors(target)
            common = next((name for name in up_source if name in up_target), None)
            if common is None:
                raise NotConnected(
                    f"TF joins '{source}' to '{up_source[-1]}' and '{target}' to '{up_target[-1]}', but not to each "
                    "other: something must publish the transform between those trees"
                )
            T_common_source = self._chain(up_source[: up_source.index(common)], stamp_ns)
            T_common_target = self._chain(up_target[: up_target.index(common)], stamp_ns)
        return np.linalg.inv(T_common_target) @ T_common_source

    def _ancestors(self, name: str) -> list[str]:
        chain = [name]
        while name in self._frames and (name := self._frames[name].parent) not in chain:
            chain.append(name)
        return chain

    def _chain(self, children: list[str], stamp_ns: int) -> Floats:
        """T_ancestor_child through the frames, the lowest first."""
        T = np.eye(4)
        for child in children:
            T = self._at(child, stamp_ns) @ T
        return T

    def _at(self, child: str, stamp_ns: int) -> Floats:
        frame = self._frames[child]
        samples = frame.samples
        if frame.static:
            return samples[0].matrix()
        after = bisect_left(samples, stamp_ns, key=lambda s: s.stamp_ns)
        step = f"'{frame.parent}' -> '{child}'"
        if after == len(samples):
            late = (stamp_ns - samples[-1].stamp_ns) / 1e9
            raise TooNew(
                f"the newest transform {step} is {late:.3f} s older than the image: its broadcaster lags or stopped"
            )
        if samples[after].stamp_ns == stamp_ns:
            return samples[after].matrix()
        if after == 0:
            early = (samples[0].stamp_ns - stamp_ns) / 1e9
            raise TooOld(
                f"the oldest transform {step} still held is {early:.3f} s newer than the image: do the clocks agree?"
            )
        return _interpolate(samples[after - 1], samples[after], stamp_ns)


def _interpolate(before: _Sample, after: _Sample, stamp_ns: int) -> Floats:
    """Straight line and constant turn between two transforms."""
    share = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    ends = np.stack([before.matrix(), after.matrix()])
    T = np.eye(4)
    T[:3, :3] = Slerp([0.0, 1.0], Rotation.from_matrix(ends[:, :3, :3]))(share).as_matrix()
    T[:3, 3] = (1 - share) * ends[0, :3, 3] + share * ends[1, :3, 3]
    return T
