"""Training instances of prepared 3D-FUTURE scenes, as the released training draws them (spec/structure.md section 8).

For a model of published size: condition images, precomputed geometry tokens, structure latents and target placements
of one scene seen from one query asset. Reads what future3d_prepare.py wrote; knows nothing about networks or losses
(released.py has those). Dropping conditions and grouping scenes of equal count over processes are the loop's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from scenegen.generator.preprocessing import mask_image, scene_image
from scenegen.images import read_views
from scenegen.scene import InvalidInput
from scenegen.training.future3d import MOST_ASSETS
from scenegen.training.released import relative_placements

MOST_TOGETHER = 7
"""Assets of one instance; a scene with more is cut after shuffling."""


@dataclass(frozen=True)
class Instance:
    """One training instance of N assets, the query first.

    assets: float32 [N, S, S, 3] in 0..1, black around the asset. masks: uint8 [N, S, S, 3]. scene: uint8 [S, S, 3].
    geometry: bfloat16 [P, 2C], the precomputed tokens. latents: float32 [N, c, R, R, R]. placements: float32 [N, 8].
    """

    assets: NDArray[np.float32]
    masks: NDArray[np.uint8]
    scene: NDArray[np.uint8]
    geometry: Tensor
    latents: Tensor
    placements: NDArray[np.float32]


class PreparedScenes:
    """The instances of a prepared folder: every asset of every scene is the query once.

    Kept are assets that are seen and have a latent, in scenes that have geometry tokens and 1 to 16 such assets.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        self.folder, self.image_size = folder, image_size
        path = folder / "scenes.jsonl"
        if not path.is_file():
            raise InvalidInput(f"{path} is not there: make the step `metadata` first (scenegen prepare --help)")
        self.scenes: list[dict[str, Any]] = []
        for line in path.read_text().splitlines():
            scene = json.loads(line)
            scene["assets"] = [a for a in scene["assets"] if a["pixels"] and self._latent(a).is_file()]
            if 1 <= len(scene["assets"]) <= MOST_ASSETS and self._features(scene).is_file():
                self.scenes.append(scene)
        self.instances = [(s, q) for s, scene in enumerate(self.scenes) for q in range(len(scene["assets"]))]
        """Scene and query of each instance."""
        if not self.instances:
            raise InvalidInput(f"{folder} has no scene with latents and features: make those steps first")

    def instance(self, number: int, rng: np.random.Generator) -> Instance:
        """An instance by its number; rng shuffles the assets that are not the query."""
        scene_number, query = self.instances[number]
        scene = self.scenes[scene_number]
        everything = scene["assets"]
        others = rng.permutation([i for i in range(len(everything)) if i != query])
        order = [query, *others.tolist()][:MOST_TOGETHER]
        translation, rotation, scale = (
            np.array([asset[name] for asset in everything], float) for name in ("translation", "rotation", "scale")
        )
        view = read_views(self.folder / "views" / scene["scene_id"])[0]
        masks = [view.masks == everything[i]["instance"] for i in order]
        return Instance(
            assets=np.stack([released_crop(view.image, mask, self.image_size) for mask in masks]),
            masks=np.stack([mask_image(mask, self.image_size) for mask in masks]),
            scene=scene_image(view.image, self.image_size),
            geometry=load_file(self._features(scene))["tokens"],
            latents=torch.stack([load_file(self._latent(everything[i]))["mean"] for i in order]),
            placements=relative_placements(translation, rotation, scale, order),
        )

    def _latent(self, asset: dict[str, Any]) -> Path:
        return self.folder / "latents" / f"{asset['model_id']}.safetensors"

    def _features(self, scene: dict[str, Any]) -> Path:
        return self.folder / "features" / f"{scene['scene_id']}.safetensors"


def released_crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    """The asset in a square 1.2 times its box, on black: float32 [size, size, 3] in 0..1.

    As in training: corners of the square truncated towards zero, and no rounding to bytes after it is multiplied with
    its alpha. Inference (preprocessing.py) does either otherwise.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])
    half = max(int(max(x1 - x0, y1 - y0) * 1.2) // 2, 1)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    corners = (int(x - half), int(y - half), int(x + half), int(y + half))
    cutout = Image.fromarray(np.dstack([image, mask.astype(np.uint8) * np.uint8(255)])).crop(corners)
    resized = np.asarray(cutout.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32) / 255
    return np.multiply(resized[..., :3], resized[..., 3:], dtype=np.float32)
