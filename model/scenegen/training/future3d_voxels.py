"""Structured latents of 3D-FUTURE's meshes: image features on their voxels, then the latent encoder.

Each voxel has the mean, over views all around (spec/latents.md section 10), of the image encoder's patch tokens where
the voxel is seen in the picture, between patches bilinearly (section 6: "DINOv2 features averaged per voxel"). Left
open there, and decided here: the tokens are the condition's (before the final norm, normalised), a view counts whether
or not something hides the voxel from it, and pictures are the project's renderer's on black.

Knows nothing about the dataset's layout.
"""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scenegen.generator.conditioning import image_tensor
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.latents.encoder import SLatEncoder
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.texture.cameras import hammersley_cameras, normalised_intrinsics
from scenegen.render import Camera, Renderer, Surface
from scenegen.scene import InvalidInput

VIEWS = 150
"""As TRELLIS takes."""


@torch.inference_mode()
def voxel_features(
    asset: trimesh.Trimesh, coords: Tensor, resolution: int, encoder: ImageEncoder, views: int
) -> Tensor:
    """Mean patch tokens float32 [V, C] on voxels int [V, 3] of an asset (z-up, unit box), on the encoder's device."""
    device = encoder.norm.mean.device
    side, patches = encoder.image_size, encoder.image_size // encoder.patch_size
    intrinsics = normalised_intrinsics()
    pixels = intrinsics.double().numpy() * [[side], [side], [1.0]]
    pixels[:2, 2] -= 0.5  # the centre of pixel (u, v) is (u, v)
    camera = Camera(side, side, pixels)
    renderer = Renderer([Surface.from_mesh(asset)], [np.eye(4)])
    centres = (coords.float() + 0.5) / resolution - 0.5
    total = torch.zeros(len(coords), encoder.config.hidden_size, device=device)
    for T_camera_asset in hammersley_cameras(views):
        T_asset_camera = np.linalg.inv(T_camera_asset.double().numpy())
        picture: NDArray[np.uint8] = renderer.render(camera, T_asset_camera, background=(0, 0, 0))[0]
        tokens = encoder(image_tensor(picture)[None].to(device))[0, -(patches**2) :].float()
        seen = (centres @ T_camera_asset[:3, :3].T + T_camera_asset[:3, 3]) @ intrinsics.T
        where = (seen[:, :2] / seen[:, 2:] * 2 - 1).to(device)
        grid = tokens.T.reshape(1, -1, patches, patches)
        sampled = functional.grid_sample(grid, where[None, None], padding_mode="border", align_corners=False)
        total += sampled[0, :, 0].T
    return total / views


@torch.inference_mode()
def structured_latents(
    asset: trimesh.Trimesh,
    occupancy: NDArray[np.bool_],
    images: ImageEncoder,
    encoder: SLatEncoder,
    views: int = VIEWS,
) -> dict[str, Tensor]:
    """coords int32 [V, 3] and the latents' mean float32 [V, c] of an asset with voxels [R, R, R].

    InvalidInput when the voxels have another resolution than the encoder, or there are none.
    """
    if len(occupancy) != encoder.resolution or not occupancy.any():
        raise InvalidInput(
            f"{np.count_nonzero(occupancy)} voxels at resolution {len(occupancy)} cannot be encoded: the encoder takes "
            f"resolution {encoder.resolution}, make the step `voxels` with it"
        )
    coords = torch.from_numpy(np.argwhere(occupancy)).int().contiguous()
    features = voxel_features(asset, coords, encoder.resolution, images, views)
    voxels = Voxels(functional.pad(coords, (1, 0)).to(features.device), 1)
    mean, _ = encoder(features, voxels)
    return {"coords": coords, "mean": mean.float().cpu().contiguous()}
