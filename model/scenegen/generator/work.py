"""Book-keeping of one generation: progress, seconds per stage, and the wish to stop. Knows nothing about the stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scenegen.scene import Asset, Cancelled, Progress, Scene


class Work:
    """Follows one generation through its stages.

    Stages are entered one after another, each with its share of the whole (0..1).
    on_progress: told whenever something was finished. cancelled: asked at the start of every stage and by `check`.
    """

    def __init__(self, on_progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None) -> None:
        self._on_progress, self._cancelled = on_progress, cancelled
        self._stage, self._begin, self._share = "", 0.0, 0.0
        self.seconds: dict[str, float] = {}

    def is_cancelled(self) -> bool:
        """Whether the caller wants to stop."""
        return self._cancelled is not None and self._cancelled()

    def check(self) -> None:
        """Raise Cancelled when the caller wants to stop."""
        if self.is_cancelled():
            raise Cancelled(f"stopped during {self._stage}")

    @contextmanager
    def stage(self, name: str, share: float) -> Iterator[None]:
        """Time a stage and report its beginning and its end."""
        self._stage, self._begin, self._share = name, self._begin + self._share, share
        self.check()
        self.done(0.0)
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin
        self.done(1.0)

    def done(self, fraction: float, asset: Asset | None = None, scene: Scene | None = None) -> None:
        """Report that a fraction (0..1) of the current stage is done, and the asset or coarse scene just finished."""
        if self._on_progress is not None:
            self._on_progress(Progress(self._stage, min(self._begin + fraction * self._share, 1.0), asset, scene))
