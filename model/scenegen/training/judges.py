"""Networks that compare pictures: LPIPS, FID, CLIP-S and DINO-S of Table 1, each only where its weights are given.

Folder layout, safetensors everywhere (`scenegen convert` makes them of published pickles):
lpips/alexnet.safetensors   AlexNet as torchvision names it (features.*; the classifier is not read)
lpips/lin.safetensors       the linear layers of LPIPS 0.1 for AlexNet (lin0.model.1.weight ...)
clip/                       transformers folder of CLIP ViT-L/14: config.json, model.safetensors
dinov2/                     transformers folder of DINOv2 ViT-L/14 with registers, as for `--weights`
inception.safetensors       Inception v3 for FID, torchvision's names (the published FID weights; `fc` is not read)

Nothing is downloaded. CLIP and DINOv2 are transformers' networks. LPIPS is written here after Zhang et al., "The
Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018; it was not compared with the published
values, for its weights were not at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from scenegen.generator.checkpoints import load_weights, open_image_encoder
from scenegen.scene import InvalidInput
from scenegen.training.inception import Inception

Picture = NDArray[np.uint8]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
ALEXNET = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
"""Its convolutions: channels in, channels out, kernel, stride, padding."""
POOLED = (1, 2)
"""Those that a maximum over 3 x 3 with stride 2 comes before."""


class Judges:
    """Those networks that a folder holds. InvalidInput when it holds none, or one is damaged."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.measures: dict[str, Callable[[Tensor, Tensor], float]] = {}
        if (folder / "lpips").is_dir():
            lpips = LPIPS(folder / "lpips").to(self.device)
            self.measures["lpips"] = lambda a, b: float(lpips(a, b))
        if (folder / "clip").is_dir():
            self.measures["clip_s"] = _cosine(_clip(folder / "clip", self.device))
        if (folder / "dinov2").is_dir():
            self.measures["dino_s"] = _cosine(_dino(folder / "dinov2", self.device))
        self.inception: Inception | None = None
        if (folder / "inception.safetensors").is_file():
            self.inception = Inception().eval()
            load_weights(self.inception, folder / "inception.safetensors", ignored=self.inception.not_read)
            self.inception.to(self.device)
        if not self.measures and self.inception is None:
            raise InvalidInput(f"{folder} holds none of lpips/, inception.safetensors, clip/, dinov2/: put some there")

    @torch.inference_mode()
    def compare(self, generated: Picture, reference: Picture) -> dict[str, float]:
        """Figures of two pictures uint8 [H, W, 3], by the names of scenegen.evaluation.images."""
        a, b = self._tensor(generated), self._tensor(reference)
        return {name: measure(a, b) for name, measure in self.measures.items()}

    @torch.inference_mode()
    def features(self, picture: Picture) -> NDArray[np.float64] | None:
        """What FID compares, [2048], of a picture uint8 [H, W, 3]; None without its network."""
        if self.inception is None:
            return None
        return self.inception(self._tensor(picture))[0].cpu().numpy().astype(np.float64)

    def _tensor(self, picture: Picture) -> Tensor:
        """float32 [1, 3, H, W] in 0..1."""
        return torch.tensor(picture).movedim(-1, 0)[None].to(self.device, torch.float32) / 255


class LPIPS(nn.Module):
    """Distance of pictures by AlexNet's five feature maps: unit features, squared differences, learnt weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.alexnet = _AlexNet()
        load_weights(self.alexnet, folder / "alexnet.safetensors", ignored=("classifier.",))
        self.lin = _Lin()
        load_weights(self.lin, folder / "lin.safetensors")
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean distance of pictures [1, 3, H, W] in 0..1 (scaled to [-1, 1] here)."""
        features = [self.alexnet((2 * x - 1 - self.shift) / self.scale) for x in (a, b)]
        unit = [[f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in maps] for maps in features]
        parts = [lin((x - y) ** 2).mean() for lin, x, y in zip(self.lin.layers(), *unit, strict=True)]
        return torch.stack(parts).sum()


class _AlexNet(nn.Module):
    """Its convolutions under torchvision's names (the gaps in the numbers are ReLUs and pooling)."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(i, o, k, stride=s, padding=p) for i, o, k, s, p in ALEXNET]
        self.features = nn.ModuleDict(dict(zip(("0", "3", "6", "8", "10"), convolutions, strict=True)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, convolution in enumerate(self.features.values()):
            x = F.relu(convolution(F.max_pool2d(x, 3, 2) if index in POOLED else x))
            maps.append(x)
        return maps


class _Lin(nn.Module):
    """The learnt weights of each feature map, under the published names."""

    def __init__(self) -> None:
        super().__init__()
        for index, (_, channels, *_rest) in enumerate(ALEXNET):
            conv = nn.Conv2d(channels, 1, 1, bias=False)
            self.add_module(f"lin{index}", nn.ModuleDict({"model": nn.ModuleDict({"1": conv})}))

    def layers(self) -> list[nn.Conv2d]:
        """In the order of the feature maps."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]


def _clip(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    try:
        clip = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{folder} is no readable transformers folder of CLIP ({error}): get it again") from error
    clip = clip.eval().to(device)
    mean, deviation = (torch.tensor(x, device=device)[:, None, None] for x in (CLIP_MEAN, CLIP_DEVIATION))
    side = int(clip.config.image_size)
    return lambda x: clip((_square(x, side) - mean) / deviation).image_embeds


def _dino(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    encoder = open_image_encoder(folder).load(device)
    return lambda x: encoder.backbone(encoder.norm(_square(x, encoder.image_size))).pooler_output


def _cosine(embed: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], float]:
    return lambda a, b: float(F.cosine_similarity(embed(a), embed(b)).mean())


def _square(picture: Tensor, side: int) -> Tensor:
    """[1, 3, H, W] in 0..1: the shorter edge resized to `side` (Pillow's bicubic), the centre cut out."""
    image = Image.fromarray((picture[0].movedim(0, -1) * 255).round().byte().cpu().numpy())
    ratio = side / min(image.size)
    wide, tall = (max(side, round(edge * ratio)) for edge in image.size)
    resized = np.asarray(image.resize((wide, tall), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    top, left = (tall - side) // 2, (wide - side) // 2
    cut = np.ascontiguousarray(resized[top : top + side, left : left + side])
    return torch.from_numpy(cut).movedim(-1, 0)[None].to(picture.device)
