"""A generation server whose generator knows the answer: what is left of a job when generation takes no time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from scenegen.scene import Detail, Progress, Scene, View
from scenegen.server import serve
from scenegen.synthetic import make_scene, true_scene


class TrueGenerator:
    """Answers at once with the true meshes and placements of a synthetic scene."""

    def __init__(self, seed: int) -> None:
        self._truth = make_scene(seed)

    def generate(
        self,
        views: Sequence[View],
        *,
        seed: int = 42,
        ids: Sequence[int] | None = None,
        detail: Detail = "textured",
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Scene:
        """As SceneGen.generate, but for the time."""
        return true_scene(self._truth, views[0], ids)


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("address")
    args = parser.parse_args()
    serve(lambda: TrueGenerator(args.seed), args.address)


if __name__ == "__main__":
    main()
