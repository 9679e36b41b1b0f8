"""Condition tokens of every asset, from the images of its views (spec/structure.md section 6).

Per asset: [asset | mask | scene | geometry, frame attention | geometry, global attention], and for models that want it
[| rays]: what is known of the camera. Knows nothing about how the images were cut (preprocessing.py) or what the tokens
condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.preprocessing import ConditionImages, condition_images
from scenegen.scene import View

MultiView = Literal["published", "joint"]
"""How the geometry encoder sees several views: `published` each on its own, as the released code does;
`joint` all in one sequence, as the paper says."""


class Conditioner(nn.Module):
    """The image encoder and the geometry encoder, and the order in which their tokens are laid out.

    ray_token: whether a last token holds the rays of each asset as they are. Published models have none.
    """

    def __init__(
        self, image_encoder: ImageEncoder, geometry_encoder: VGGTAggregator, *, ray_token: bool = False
    ) -> None:
        super().__init__()
        self.ray_token = ray_token
        self.image_encoder = image_encoder
        self.geometry_encoder = geometry_encoder

    def forward(
        self, assets: Tensor, masks: Tensor, scenes: Tensor, geometry: Tensor, view_of_asset: Tensor, rays: Tensor
    ) -> Tensor:
        """Condition tokens [A, T, C] of A assets seen in K views (of one scene or of many).

        assets, masks: [A, 3, S, S] in 0..1. scenes: [K, 3, S, S]. geometry: [B, V, 3, G, G] with B * V = K: V views
        in each of B sequences, in the order of scenes. view_of_asset: int64 [A], the view each asset's images are from.
        rays: float32 [A, 1 + ANGLES] as mask_rays gives them.
        """
        asset_tokens, mask_tokens, scene_tokens = self.image_encoder(torch.cat([assets, masks, scenes])).split(
            [len(assets), len(masks), len(scenes)]
        )
        (geometry_tokens,) = self.geometry_encoder(geometry)
        tokens = condition_tokens(asset_tokens, mask_tokens, scene_tokens, geometry_tokens.flatten(0, 1), view_of_asset)
        if not self.ray_token:
            return tokens
        last = functional.pad(rays, (0, tokens.shape[-1] - rays.shape[-1]))
        return torch.cat([tokens, last[:, None]], dim=1)  # in full precision, as angles want it

    def encode(self, views: Sequence[View], ids: Sequence[int], multiview: MultiView = "published") -> Tensor:
        """Condition tokens [K, N, T, C] of N assets, which must be visible in all of the K views.

        Raises InvalidInput when an id is missing in a view.
        """
        sizes = self.image_encoder.image_size, self.geometry_encoder.image_size
        images = [condition_images(view, ids, *sizes) for view in views]
        tensors = self.tensors(images, multiview)
        return self(*tensors).unflatten(0, (len(views), len(ids)))

    def tensors(
        self, images: Sequence[ConditionImages], multiview: MultiView = "published"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `forward`, on the encoders' device, for the images of one or several views."""
        device = self.image_encoder.norm.mean.device
        geometry = image_tensor(np.stack([view.geometry for view in images])).to(device)
        counts = torch.tensor([len(view.assets) for view in images])
        return (
            image_tensor(np.concatenate([view.assets for view in images])).to(device),
            image_tensor(np.concatenate([view.masks for view in images])).to(device),
            image_tensor(np.stack([view.scene for view in images])).to(device),
            geometry[None] if multiview == "joint" else geometry[:, None],
            torch.repeat_interleave(torch.arange(len(images)), counts).to(device),
            torch.from_numpy(np.concatenate([view.rays for view in images])).to(device),
        )


def image_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [..., H, W, 3] to float32 [..., 3, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float() / 255


def condition_tokens(assets: Tensor, masks: Tensor, scenes: Tensor, geometry: Tensor, view_of_asset: Tensor) -> Tensor:
    """Lay tokens out per asset (spec/structure.md section 6.4).

    assets, masks: [A, P, C], normalised. scenes: [K, P, C], normalised. geometry: [K, G, 2C], the aggregator's last
    round, not normalised. view_of_asset: int64 [A]. Returns [A, 3 P + 2 G, C]; the scene's part repeats.
    """
    frame, across = geometry.chunk(2, dim=-1)
    shared = torch.cat([scenes, frame, across], dim=1)
    return torch.cat([assets, masks, shared[view_of_asset]], dim=1)
