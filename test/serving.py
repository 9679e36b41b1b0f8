"""Parts the transport tests share: a stub generator, a view to send, and a real server in a thread.

The stub stands for the model only where the behaviour under test is the transport's: queue, cancel, limits, failures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import trimesh
import uvicorn
from PIL import Image

from scenegen.scene import Asset, Cancelled, Detail, InvalidInput, Placement, Progress, Scene, View
from scenegen.server import Limits, SceneGenerator, ViewSegmenter, create_app

WAIT_S = 250.0
"""How long a test waits for what must happen; only a failing test waits that long."""


class StubGenerator:
    """Steps only when told: each `step` lets it poll `cancelled` once and report progress."""

    def __init__(
        self, steps: int = 0, released: int = 0, failure: Exception | None = None, textures: bool = False
    ) -> None:
        """textures: it has coarse assets first, then a step before each textured one."""
        self.steps = steps
        self.failure = failure
        self.textures = textures
        self.started = threading.Semaphore(0)
        self.step = threading.Semaphore(released)
        self.ended = threading.Semaphore(0)
        self.taken: list[int] = []
        self.was_cancelled = False
        self.sees_cancel: Callable[[], bool] = lambda: False

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
        assert on_progress is not None and cancelled is not None
        self.sees_cancel = cancelled
        self.started.release()
        try:
            scene = self._generate(views, seed, ids, on_progress, cancelled)
            if self.textures and detail == "textured":
                return self._texture(scene, seed, on_progress, cancelled)
            return scene
        finally:
            self.ended.release()

    def _generate(
        self,
        views: Sequence[View],
        seed: int,
        ids: Sequence[int] | None,
        on_progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> Scene:
        for i in range(self.steps):
            assert self.step.acquire(timeout=WAIT_S)
            if cancelled():
                self.was_cancelled = True
                raise Cancelled
            self.taken.append(i)
            on_progress(Progress("structure", (i + 1) / self.steps))
        if self.failure is not None:
            raise self.failure
        chosen = tuple(ids) if ids is not None else views[0].instance_ids
        if not chosen:
            raise InvalidInput("view 0 masks has no instances: segment the image first")
        assets = tuple(box(i, seed) for i in chosen)
        on_progress(Progress("assets", 0.9, assets[0]))
        placements = tuple(Placement(np.full(3, 0.1 * i), np.array([1.0, 0, 0, 0]), 1.0) for i in range(len(assets)))
        return Scene(assets, placements, 0, {"structure": 0.5})

    def _texture(
        self, scene: Scene, seed: int, on_progress: Callable[[Progress], None], cancelled: Callable[[], bool]
    ) -> Scene:
        on_progress(Progress("latents", 0.9, scene=scene))
        assets = []
        for asset in scene.assets:
            assert self.step.acquire(timeout=WAIT_S)
            if cancelled():
                self.was_cancelled = True
                raise Cancelled
            if self.failure is not None:
                raise self.failure
            assets.append(textured_box(asset.id, seed))
            on_progress(Progress("textures", 0.95, assets[-1]))
        return replace(scene, assets=tuple(assets))


def box(instance: int, seed: int = 0) -> Asset:
    """An asset with a size and vertex colours of its own."""
    mesh = trimesh.creation.box((1.0, 0.5, 0.1 + 0.01 * instance))
    colours = np.random.default_rng(seed + instance).integers(0, 256, (len(mesh.vertices), 4), dtype=np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    return Asset(instance, f"box {instance}", mesh)


def textured_box(instance: int, seed: int = 0) -> Asset:
    """The box again, a little smaller, with a texture of its own: 16 x 16 noise."""
    mesh = trimesh.creation.box((0.96, 0.48, 0.1))
    mesh.unmerge_vertices()
    rng = np.random.default_rng(seed + instance)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, roughnessFactor=1.0, metallicFactor=0.0)
    uv = rng.uniform(0, 1, (len(mesh.vertices), 2))
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return Asset(instance, f"box {instance}", mesh, "textured")


def view(ids: Sequence[int] = (1, 2, 3), size: tuple[int, int] = (24, 32), depth: bool = True) -> View:
    """A small view with noise for an image and one stripe per instance."""
    rng = np.random.default_rng(5)
    masks = np.zeros(size, np.int32)
    for row, instance in enumerate(ids):
        masks[2 * row : 2 * row + 2, 4:-4] = instance
    depth_m = rng.uniform(0.5, 2, size).astype(np.float32) if depth else None
    if depth_m is not None:
        depth_m[0, 0], depth_m[0, 1] = np.nan, 0
    T = np.eye(4)
    T[:3, 3] = 0.1, 1 / 3, np.pi
    intrinsics = np.array([[500.1, 0, 15.5], [0, 499.9, 11.5], [0, 0, 1]])
    return View(
        rng.integers(0, 256, (*size, 3), dtype=np.uint8), masks, depth_m, intrinsics, T, 1_700_000_000_123_456_789
    )


@contextmanager
def running(
    generator: StubGenerator,
    socket_path: Path,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    load: Callable[[], SceneGenerator] | None = None,
    segmenter: ViewSegmenter | None = None,
) -> Iterator[str]:
    """A real uvicorn over a real unix socket, in a thread; yields the address once loading is over."""
    load_segmenter = None if segmenter is None else lambda: segmenter
    app = create_app(load or (lambda: generator), load_segmenter=load_segmenter, token=token, limits=limits)
    server = uvicorn.Server(
        uvicorn.Config(
            app, uds=str(socket_path), http="h11", ws="none", log_level="warning", timeout_graceful_shutdown=1
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started and app.state.worker.state != "loading")
    try:
        yield f"unix:{socket_path}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail when it does not within WAIT_S."""
    tick, deadline = threading.Event(), time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        tick.wait(0.01)
