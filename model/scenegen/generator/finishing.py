"""From an extracted mesh and its colours to a textured mesh, in processes beside the model.

numpy only: a process that finishes meshes does not load torch. Knows nothing about networks, placements, scenes, or how
meshes are extracted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import trimesh

from scenegen.generator.meshing.finish import finish_mesh
from scenegen.generator.meshing.smoothing import without_stairs
from scenegen.generator.texture.ways import textured_mesh
from scenegen.generator.work import Work
from scenegen.generator.workers import Workers
from scenegen.glb import pack_texture
from scenegen.scene import Asset, Floats

if TYPE_CHECKING:
    from scenegen.generator.latents.fields import Gaussians
    from scenegen.generator.meshing.extracted import ExtractedMesh

_log = logging.getLogger(__name__)

TEXTURE_SIZE = 1024
"""Texels along the side of a texture."""
_POLL_S = 0.05


def ready() -> None:
    """Nothing: what this module needs is loaded by the time a process can call it."""


def finish(
    mesh: ExtractedMesh, gaussians: Gaussians | None, box: Floats, texture_size: int, stairs: float = 0.0
) -> trimesh.Trimesh:
    """The textured mesh of an extracted one: z-up, in the same unit box.

    gaussians: of the same asset, for a mesh without colours. box: [2, 3], where its occupancy lies. stairs: edge of the
    voxels whose stairs are to be smoothed; 0 leaves the mesh as it is. UnusableMesh when it came out damaged.
    """
    unwrapped = finish_mesh(mesh, box)
    textured = textured_mesh(unwrapped, mesh, gaussians, size=texture_size)
    if stairs:  # last: colours were decoded where the surface was extracted
        whole = np.zeros((unwrapped.source.max() + 1, 3))
        whole[unwrapped.source] = unwrapped.vertices
        textured.vertices = without_stairs(whole, unwrapped.source[unwrapped.faces], stairs)[unwrapped.source]
    textured.vertices = textured.vertices.clip(-0.5, 0.5)  # simplification may step over the border of the box
    pack_texture(textured)  # here, beside the model, rather than when it is sent
    return textured


class Finishing:
    """The textured meshes of one generation in the making: `begin` each as it is decoded, then take the `results`.

    As a context: leaving it by an exception ends what is not finished.
    """

    def __init__(self, workers: Workers, count: int, work: Work) -> None:
        """count: how many there will be. work: hears of each one finished, and is asked whether to stop."""
        self._workers, self._count, self._work = workers, count, work
        self._extractor = ThreadPoolExecutor(1, thread_name_prefix="extraction")
        self._extraction: Future[ExtractedMesh] | None = None
        self._pending: dict[Future[trimesh.Trimesh], Asset] = {}
        self._begun = self._ended = 0
        self._textured: dict[int, Asset] = {}

    def __enter__(self) -> Finishing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._extractor.shutdown(wait=False, cancel_futures=True)
        if self._pending:
            for future in self._pending:
                future.cancel()
            self._workers.stop()

    def begin(
        self,
        coarse: Asset,
        extract: Callable[[], ExtractedMesh],
        gaussians: Gaussians | None,
        box: Floats,
        stairs: float = 0.0,
    ) -> None:
        """Start to finish the mesh that is to replace a coarse asset's; the other arguments are those of `finish`.

        extract: gives the mesh, called in a thread of its own. Returns when the extraction before has ended: what is
        extracted from is large, and this way there are never more than two of them.
        """
        while self._extraction is not None and not self._extraction.done():
            self._work.check()
            wait([self._extraction], _POLL_S)
        self._extraction = self._extractor.submit(extract)
        future = self._workers.submit(finish, self._extraction, gaussians, box, TEXTURE_SIZE, stairs)
        self._pending[future] = coarse
        self._begun += 1
        self._work.done(self._done)
        self._collect(0.0)

    def results(self) -> dict[int, Asset]:
        """The textured assets by id, once all are done; those are missing whose mesh came out damaged."""
        while self._pending:
            self._work.check()
            self._collect(_POLL_S)
        return self._textured

    def _collect(self, timeout_s: float) -> None:
        done, _ = wait(self._pending, timeout_s, FIRST_COMPLETED)
        for future in done:
            coarse = self._pending.pop(future)
            self._ended += 1
            asset = None
            try:
                asset = Asset(coarse.id, coarse.label, future.result(), "textured")
            except Exception as error:  # whatever it was, the coarse asset is there and good
                _log.warning("object %d stays coarse: %s", coarse.id, error)
            else:
                self._textured[asset.id] = asset
            self._work.done(self._done, asset)

    @property
    def _done(self) -> float:
        return (self._begun + self._ended) / (2 * self._count)
