"""Training samples on disk: shards of scenes, written whole and read by row.

A shard ``scenes_*`` holds the arrays of samples.py of ``SCENES_PER_SHARD`` synthetic scenes of consecutive seeds and is
a function of its first seed alone; several processes make them, ahead of a training or beside it (stream.py). A shard
``given_*`` holds scenes that came from files. Shards are written under a temporary name and renamed, so a reader never
sees half of one.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from scenegen.scene import InvalidInput
from scenegen.synthetic.objects import FAMILIES, ProceduralObject
from scenegen.synthetic.rendering import render
from scenegen.synthetic.scenes import camera_path, make_camera, make_scene
from scenegen.training.samples import Arrays, mirrored_targets, scene_sample

Sample = tuple[Arrays, Arrays]
"""Arrays of one scene and of its objects, as scene_sample gives them."""

SCENES_PER_SHARD = 128
WIDTH, HEIGHT = 320, 240
GIVEN = "given_"
"""How the names of shards begin whose scenes came from files."""


def make_shards(
    folder: Path, scenes: int, *, first_seed: int, image_size: int, geometry_size: int, resolution: int, workers: int
) -> None:
    """Write enough shards for ``scenes`` scenes from ``first_seed`` on; those already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + scenes, SCENES_PER_SHARD)
    jobs = [(folder, seed, image_size, geometry_size, resolution) for seed in seeds]
    jobs = [job for job in jobs if not shard_path(folder, job[1]).exists()]
    if not jobs:
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_make_shard, jobs), total=len(jobs), desc="scenes / 128", mininterval=5):
            pass


def shard_path(folder: Path, first_seed: int) -> Path:
    """The file that holds the scenes from ``first_seed`` on."""
    return folder / f"scenes_{first_seed:08d}.safetensors"


def _make_shard(job: tuple[Path, int, int, int, int]) -> None:
    folder, first_seed, image_size, geometry_size, resolution = job
    sizes = {"image_size": image_size, "geometry_size": geometry_size, "resolution": resolution}
    write_arrays(shard_path(folder, first_seed), draw_shard(shard_seeds(first_seed), sizes))


def sample_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """What scene_sample is to be asked for, by a config's networks: image_size, geometry_size, resolution."""
    return {
        "image_size": config["image_encoder"]["image_size"],
        "geometry_size": config["geometry_encoder"]["img_size"],
        "resolution": config["resolution"],
    }


def shard_seeds(first_seed: int, number: int = 0) -> range:
    """Seeds of the scenes of a shard, the ``number``-th from ``first_seed`` on."""
    start = first_seed + number * SCENES_PER_SHARD
    return range(start, start + SCENES_PER_SHARD)


def draw_shard(seeds: range, sizes: Mapping[str, int], owner: int | None = None) -> Arrays:
    """The arrays of a shard: of the synthetic scenes of these seeds, those in which an object is visible.

    sizes: as sample_sizes. owner: the process whose child draws them; SystemExit when it has ended, since nobody waits.
    """
    samples: list[Sample] = []
    for seed in seeds:
        if owner is not None and os.getppid() != owner:
            raise SystemExit
        rng = np.random.default_rng((seed, 1))
        scene = make_scene(seed)
        camera = make_camera(rng, WIDTH, HEIGHT)
        view = render(scene, camera, camera_path(scene, 1, seed, camera)[0])
        sample = scene_sample(scene, view, **sizes)
        if sample is not None:
            samples.append(sample)
    return _stacked(samples)


def _stacked(samples: Sequence[Sample]) -> Arrays:
    counts = np.array([len(objects["crop"]) for _, objects in samples])
    arrays = {f"scene.{k}": np.stack([shared[k] for shared, _ in samples]) for k in samples[0][0]}
    arrays |= {f"object.{k}": np.concatenate([objects[k] for _, objects in samples]) for k in samples[0][1]}
    return {"counts": counts, **arrays}


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays as safetensors, whole or not at all."""
    part = path.with_suffix(f".part{os.getpid()}")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, part)  # it writes memory as it lies
    os.replace(part, path)


class GivenShards:
    """Writes samples of scenes that came from files into a folder, as they are added; `finish` writes the last shard.

    count: how many were added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self._waiting: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Add one more."""
        self._waiting.append(sample)
        self.count += 1
        if len(self._waiting) == SCENES_PER_SHARD:
            self.finish()

    def finish(self) -> None:
        """Write what waits for its shard to be full."""
        if self._waiting:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{GIVEN}{self.count - len(self._waiting):08d}.safetensors"
            write_arrays(path, _stacked(self._waiting))
            self._waiting = []


class Samples:
    """Rows of shards, in memory: those of a folder, or a window of them that is moved on.

    scene, objects: arrays as in samples.py, stacked. first [S], counts [S]: each scene's rows among the objects.
    folder: that they were read from, if any.
    procedural: whether all scenes are synthetic, so that objects can be made again and are their own mirror images.
    """

    def __init__(self, folder: Path, *, limit: int | None = None) -> None:
        paths = sorted([*folder.glob("scenes_*.safetensors"), *folder.glob(f"{GIVEN}*.safetensors")])
        if not paths:
            raise InvalidInput(f"{folder} holds no scenes_*.safetensors: make them with `scenegen train data`")
        self.procedural = not any(path.name.startswith(GIVEN) for path in paths[:limit])
        self.folder: Path | None = folder
        self._merge([(int(path.stem.split("_")[1]), load_file(path)) for path in paths[:limit]])

    @classmethod
    def of_shard(cls, first_seed: int, shard: Arrays) -> Samples:
        """Those of one shard of synthetic scenes, whose arrays are taken out of ``shard``."""
        samples = cls.__new__(cls)
        samples.procedural, samples.folder = True, None
        samples._merge([(first_seed, shard)])
        return samples

    def _merge(self, shards: Sequence[tuple[int, Arrays]]) -> None:
        self._shards = [(first_seed, len(shard["counts"])) for first_seed, shard in shards]
        merged = {k: np.concatenate([shard.pop(k) for _, shard in shards]) for k in list(shards[0][1])}
        self.counts: NDArray[np.int64] = merged.pop("counts").astype(np.int64, copy=False)
        self.first = np.cumsum(self.counts) - self.counts
        self.scene: Arrays = {k.removeprefix("scene."): v for k, v in merged.items() if k.startswith("scene.")}
        self.objects: Arrays = {k.removeprefix("object."): v for k, v in merged.items() if k.startswith("object.")}

    def move(self, gone: int, more: Sequence[Samples]) -> int:
        """Let go of the first ``gone`` shards and add more behind the others; the number of object rows that went."""
        scenes = sum(count for _, count in self._shards[:gone])
        rows = int(self.counts[:scenes].sum())
        for name in self.scene:  # array by array, so that no more than one is there twice
            self.scene[name] = np.concatenate([self.scene[name][scenes:], *(each.scene[name] for each in more)])
        for name in self.objects:
            self.objects[name] = np.concatenate([self.objects[name][rows:], *(each.objects[name] for each in more)])
        self.counts = np.concatenate([self.counts[scenes:], *(each.counts for each in more)])
        self.first = np.cumsum(self.counts) - self.counts
        self._shards = self._shards[gone:] + [shard for each in more for shard in each._shards]
        return rows

    def made(self, row: int) -> ProceduralObject:
        """The object of a row, made again from its scene's seed. InvalidInput when there are scenes from files."""
        if not self.procedural:
            raise InvalidInput(
                f"the data has scenes from files ({GIVEN}*.safetensors), and textures are taught on synthetic objects "
                "only: export without --textures, or train `latents` in a runs folder of synthetic data"
            )
        scene = int(np.searchsorted(self.first, row, side="right")) - 1
        seeds, counts = np.array(self._shards).T
        shard = int(np.searchsorted(np.cumsum(counts), scene, side="right"))
        place = scene - int(counts[:shard].sum())
        # scenes in which nothing was visible left no rows, so a scene's seed may be later than its place says
        for seed in range(int(seeds[shard]) + place, int(seeds[shard]) + SCENES_PER_SHARD):
            for made in make_scene(seed).objects:
                same = np.abs(made.extents - self.objects["extents"][row]).max() < 1e-6
                if same and FAMILIES.index(made.family) == self.objects["family"][row]:
                    return made
        raise InvalidInput(
            f"object {row} is not in the scene it was drawn from: the shards were made by another version of the "
            "synthetic scenes; make them again with `scenegen train data`"
        )

    def rows(self, scenes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Object rows of the given scenes, scene after scene."""
        return np.concatenate([np.arange(self.first[s], self.first[s] + self.counts[s]) for s in scenes])

    def targets(self, rows: NDArray[np.int64], mirror: bool = False) -> Arrays:
        """All that is known of the given object rows but pictures and occupancy, or with ``mirror`` what the mirror

        image has instead.
        """
        found = {k: v[rows] for k, v in self.objects.items() if k not in ("crop", "mask", "occupancy")}
        return mirrored_targets(found) if mirror else found

    def occupancy(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Occupancy [N, 1, R, R, R] of the given object rows, 0 or 1."""
        bits = np.unpackbits(self.objects["occupancy"][rows].astype(np.uint8, copy=False), axis=1)
        side = round(bits.shape[1] ** (1 / 3))
        return bits.reshape(-1, 1, side, side, side).astype(np.float32)

    def by_count(self, least: int = 1) -> dict[int, NDArray[np.int64]]:
        """Scenes grouped by their number of objects."""
        return {int(n): np.flatnonzero(self.counts == n) for n in np.unique(self.counts) if n >= least}
