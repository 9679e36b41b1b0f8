"""Table 1's image columns: a generated scene, aligned, drawn from the input camera and compared with two pictures.

spec/evaluation.md, Images: with the photograph outside whose objects all is white ("scene"), and with the true assets
drawn the same way ("gt"). Drawn by the project's own renderer with its one lamp, one ray per pixel, at the photograph's
size; the authors draw with Blender Cycles, so these figures compare methods drawn here and not with theirs.

Knows pictures and meshes; of the networks behind LPIPS, FID, CLIP-S and DINO-S only that someone may bring them
(`Judge`), for their weights have to be downloaded. Where nobody does, their columns stay empty and say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import trimesh
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from scenegen.render import Camera, Renderer, Surface
from scenegen.scene import Floats, InvalidInput, View

Picture = NDArray[np.uint8]

AGAINST = {"scene": "Scene", "gt": "GT-Render"}
"""What is compared with: ending of a figure's name, and the paper's word for it."""
MEASURES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "fid": "FID", "clip_s": "CLIP-S", "dino_s": "DINO-S"}
"""The paper's image columns: beginning of a figure's name, and its heading."""
SAME_DB = 100.0
"""PSNR of equal pictures, which would be infinite and make every mean so."""


class Judge(Protocol):
    """Compares pictures by networks."""

    def compare(self, generated: Picture, reference: Picture) -> Mapping[str, float]:
        """Those of "lpips", "clip_s" and "dino_s" that there are weights for, of pictures uint8 [H, W, 3]."""
        ...

    def features(self, picture: Picture) -> Floats | None:
        """What FID compares, [2048]; None without the network's weights."""
        ...


def image_figures(generated: Picture, photograph: Picture, truth: Picture, judge: Judge | None) -> dict[str, float]:
    """All image figures of a scene, named as `psnr_scene` or `ssim_gt`, from three pictures of one size."""
    figures: dict[str, float] = {}
    for ending, reference in zip(AGAINST, (photograph, truth), strict=True):
        values = {"psnr": psnr(generated, reference), "ssim": ssim(generated, reference)}
        values |= judge.compare(generated, reference) if judge else {}
        figures |= {f"{name}_{ending}": value for name, value in values.items()}
    return figures


def image_features(generated: Picture, photograph: Picture, truth: Picture, judge: Judge | None) -> dict[str, Floats]:
    """What `set_figures` needs of a scene; empty without a judge that has features."""
    named = dict(zip(("generated", *AGAINST), (generated, photograph, truth), strict=True))
    found = {name: judge.features(picture) for name, picture in named.items()} if judge else {}
    return {name: features for name, features in found.items() if features is not None}


def set_figures(scenes: Sequence[Mapping[str, Floats]]) -> dict[str, float]:
    """FID of all scenes together, `fid_scene` and `fid_gt`; empty unless each has features, and there are two."""
    if len(scenes) < 2 or not all(scenes):
        return {}
    sets = {name: np.stack([features[name] for features in scenes]) for name in ("generated", *AGAINST)}
    return {f"fid_{ending}": frechet_distance(sets["generated"], sets[ending]) for ending in AGAINST}


def frechet_distance(first: Floats, second: Floats) -> float:
    """Frechet distance of the normal distributions of two sets of features [N, d], [M, d]; N and M at least 2.

    The trace of the root of the product of two covariances A^T A and B^T B is the sum of the singular values of A B^T:
    exact also where there are fewer pictures than features, as there are here.
    """
    offset = first.mean(0) - second.mean(0)
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (first, second))
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(offset @ offset + (a**2).sum() + (b**2).sum() - 2 * common)


def psnr(first: Picture, second: Picture) -> float:
    """Peak signal to noise ratio in dB of pictures uint8 [H, W, 3], at most SAME_DB."""
    error = float(np.mean((first.astype(np.float64) - second) ** 2)) / 255**2
    return min(SAME_DB, -10 * math.log10(error)) if error > 0 else SAME_DB


def ssim(first: Picture, second: Picture) -> float:
    """Structural similarity of pictures uint8 [H, W, 3]: Gaussian window, sigma 1.5, data range 1, borders left out.

    These are the settings of torchmetrics' StructuralSimilarityIndexMeasure, which the protocol names.
    """
    if min(first.shape[:2]) < 11:
        raise InvalidInput(f"pictures of {first.shape[:2]} pixels are smaller than the window of SSIM, 11: use larger")
    value: float = structural_similarity(
        first / 255.0,
        second / 255.0,
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def objects_on_white(view: View, ids: Sequence[int] | None = None) -> Picture:
    """The photograph with everything outside the objects white, uint8 [H, W, 3]. ids: all in the masks without."""
    kept = view.masks > 0 if ids is None else np.isin(view.masks, ids)
    white: Picture = np.where(kept[..., None], view.image, np.uint8(255))
    return white


def camera_of(view: View) -> tuple[Camera, Floats]:
    """The camera of a view and its T_world_camera [4, 4]. InvalidInput when either is unknown."""
    if view.intrinsics is None or view.T_world_camera is None:
        raise InvalidInput("the input view has no camera: its camera.json needs intrinsics and T_world_camera")
    return Camera(view.image.shape[1], view.image.shape[0], view.intrinsics), view.T_world_camera


def draw(
    meshes: Sequence[trimesh.Trimesh], T_world_mesh: Sequence[Floats], camera: Camera, T_world_camera: Floats
) -> Picture:
    """Meshes, each placed by a similarity [4, 4], on white: uint8 [H, W, 3]."""
    renderer = Renderer([Surface.from_mesh(mesh) for mesh in meshes], T_world_mesh)
    return renderer.render(camera, T_world_camera)[0]
