"""Pictures of Gaussians: the published rasteriser's formulas (spec/latents.md section 10), on CPU and on CUDA.

On CUDA gsplat does the work; elsewhere numpy does, all fragments of a picture at once. Knows nothing about meshes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import Tensor

from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.nn.rotation import rotation_matrices
from scenegen.generator.texture.cameras import FIELD_OF_VIEW, normalised_intrinsics
from scenegen.generator.texture.ranges import ranges
from scenegen.scene import InvalidInput

Floats32 = NDArray[np.float32]

_NEAR = 0.2
_SOFTENING = 0.1
"""Square pixels added to every Gaussian's variance."""
_FAINTEST, _DENSEST, _OPAQUE = 1 / 255, 0.99, 1e-4


def render_gaussians(gaussians: Gaussians, T_camera_asset: Tensor, size: int) -> tuple[Floats32, Floats32]:
    """RGB float32 [size, size, 3] on black and coverage float32 [size, size], seen by a camera of cameras.py.

    T_camera_asset: [4, 4]. Gaussians on CUDA are drawn by gsplat: InvalidInput when it is not installed.
    """
    if gaussians.positions.is_cuda:
        return _with_gsplat(gaussians, T_camera_asset, size)
    return _with_numpy(gaussians, T_camera_asset, size)


def _with_gsplat(gaussians: Gaussians, T_camera_asset: Tensor, size: int) -> tuple[Floats32, Floats32]:
    try:
        from gsplat import rasterization
    except ImportError as error:
        message = (
            "Gaussians on CUDA are rendered with gsplat, which is not installed: install it, or texture on the CPU"
        )
        raise InvalidInput(message) from error
    device = gaussians.positions.device
    intrinsics = normalised_intrinsics().to(device) * torch.tensor([[size], [size], [1.0]], device=device)
    picture, coverage, _ = rasterization(
        gaussians.positions,
        gaussians.rotations,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colours,
        T_camera_asset[None].to(device),
        intrinsics[None],
        size,
        size,
        near_plane=_NEAR,
        eps2d=_SOFTENING,
        rasterize_mode="antialiased",
        render_mode="RGB",
        packed=False,
    )
    return picture[0].cpu().numpy(), coverage[0, ..., 0].cpu().numpy()


def _with_numpy(gaussians: Gaussians, T_camera_asset: Tensor, size: int) -> tuple[Floats32, Floats32]:
    """Fragments of all Gaussians, front to back, gathered by pixel with one counting sort."""
    centres, conics, opacities, which = _projected(gaussians, T_camera_asset, size)
    fragment, pixel = _fragments(centres, conics, opacities, size)
    dx = (pixel % size).astype(np.float32) + np.float32(0.5) - centres[fragment, 0]
    dy = (pixel // size).astype(np.float32) + np.float32(0.5) - centres[fragment, 1]
    a, b, c = conics[fragment].T
    alphas = opacities[fragment] * np.exp(np.float32(-0.5) * (a * dx * dx + c * dy * dy) - b * dx * dy)
    alphas = np.minimum(alphas, np.float32(_DENSEST))

    # Rows of a sparse array keep the order in which their elements come: front to back.
    shape = (size * size, len(fragment))
    by_pixel = coo_array((alphas, (pixel, np.arange(len(fragment), dtype=np.int32))), shape=shape).tocsr()
    alphas, fragment = by_pixel.data, fragment[by_pixel.indices]
    lengths = np.diff(by_pixel.indptr)
    passed = np.concatenate([[0.0], np.cumsum(np.log1p(-alphas), dtype=np.float64)])
    before = np.exp((passed[:-1] - np.repeat(passed[by_pixel.indptr[:-1]], lengths)).astype(np.float32))
    shown = np.flatnonzero(before * (1 - alphas) >= _OPAQUE)
    weights = before[shown] * alphas[shown]
    colours = gaussians.colours.numpy()[which[fragment[shown]]]
    owner = np.repeat(np.arange(size * size, dtype=np.int32), lengths)[shown]
    layers = [np.bincount(owner, weights * channel, minlength=size * size) for channel in colours.T]
    coverage = np.bincount(owner, weights, minlength=size * size).astype(np.float32)
    return np.stack(layers, axis=1).astype(np.float32).reshape(size, size, 3), coverage.reshape(size, size)


def _projected(
    gaussians: Gaussians, T_camera_asset: Tensor, size: int
) -> tuple[Floats32, Floats32, Floats32, NDArray[np.int64]]:
    """Of the Gaussians in front of the camera, nearest first: centres [n, 2] in pixels, conics [n, 3] (xx, xy, yy),
    opacities [n] as the picture's resolution leaves them, and which ones they are [n]."""
    rotation, focal = T_camera_asset[:3, :3], float(normalised_intrinsics()[0, 0]) * size
    points = gaussians.positions @ rotation.T + T_camera_asset[:3, 3]
    order = torch.argsort(points[:, 2])
    order = order[points[order, 2] > _NEAR]
    x, y, z = points[order].unbind(1)
    limit = 1.3 * np.tan(FIELD_OF_VIEW / 2)
    jacobian = torch.zeros(len(order), 2, 3)
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = focal / z
    jacobian[:, 0, 2] = -focal * (x / z).clamp(-limit, limit) / z
    jacobian[:, 1, 2] = -focal * (y / z).clamp(-limit, limit) / z
    across = jacobian @ rotation
    axes = (rotation_matrices(gaussians.rotations) * gaussians.scales[:, None, :])[order]
    spread = across @ (axes @ axes.transpose(1, 2)) @ across.transpose(1, 2)
    xx, xy, yy = spread[:, 0, 0], spread[:, 0, 1], spread[:, 1, 1]
    sharp = (xx * yy - xy * xy).clamp_min(1e-6)
    xx, yy = xx + _SOFTENING, yy + _SOFTENING
    soft = (xx * yy - xy * xy).clamp_min(1e-6)
    opacities = gaussians.opacities[order] * torch.sqrt(sharp / (soft + 1e-6) + 1e-6) * (sharp > 1e-6)
    centres = torch.stack([focal * x / z, focal * y / z], dim=1) + size / 2
    conics = torch.stack([yy, -xy, xx], dim=1) / soft[:, None]
    return centres.numpy(), conics.numpy(), opacities.numpy(), order.numpy()


def _fragments(
    centres: Floats32, conics: Floats32, opacities: Floats32, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Every pixel in which a Gaussian is not too faint: the number of the Gaussian, and row * size + column."""
    reach = 2 * np.log(np.maximum(opacities / _FAINTEST, 1.0))  # of the quadratic form, outside alpha < 1 / 255
    a, b, c = conics.T
    tall = np.sqrt(reach * a / np.maximum(a * c - b * b, 1e-12))
    first = np.clip(np.ceil(centres[:, 1] - tall - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(centres[:, 1] + tall - 0.5), -1, size - 1).astype(np.int64)
    span, step = ranges(np.where(reach > 0, np.maximum(last - first + 1, 0), 0))
    row = first[span] + step
    dy = row + 0.5 - centres[span, 1]
    a, b, c = conics[span].T
    half = np.sqrt(np.maximum((b * dy) ** 2 - a * (c * dy * dy - reach[span]), 0))
    middle = centres[span, 0] - 0.5 - b * dy / a
    left = np.clip(np.ceil(middle - half / a), 0, size).astype(np.int64)
    right = np.clip(np.floor(middle + half / a), -1, size - 1).astype(np.int64)
    part, step = ranges(np.maximum(right - left + 1, 0))
    return span[part], (row[part] * size + left[part] + step).astype(np.int32)
