"""DINOv2 with registers as the image encoder of the condition (spec/structure.md section 6.2).

The network is transformers'; this module only feeds it and takes its tokens before the final norm. Knows nothing
about crops, masks or scenes: it sees square images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from scenegen.generator.encoders.vit import ImageNorm
from scenegen.scene import InvalidInput


def normalise_tokens(tokens: Tensor) -> Tensor:
    """Parameter-free layer norm over the channels, eps 1e-5: [..., C] -> [..., C] (spec/structure.md section 6.2)."""
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)


class ImageEncoder(nn.Module):
    """Square images to normalised tokens: class, registers, patches.

    config: the entries of a transformers `config.json` of Dinov2WithRegisters; every size comes from it, and it must
    have at least image_size and patch_size.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        known = {key: value for key, value in config.items() if not key.startswith("_")}
        self.config = Dinov2WithRegistersConfig(**known)
        self.config._attn_implementation = "sdpa"
        self.backbone = Dinov2WithRegistersModel(self.config)
        self.norm = ImageNorm()
        self.image_size = int(config["image_size"])
        self.patch_size = int(config["patch_size"])

    @property
    def num_tokens(self) -> int:
        """Tokens of one image: class, registers, patches."""
        return 1 + self.config.num_register_tokens + (self.image_size // self.patch_size) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, S, S] in 0..1 (S a multiple of the patch) as tokens [B, 1 + R + P, C]."""
        if images.shape[-1] % self.patch_size or images.shape[-2] % self.patch_size:
            raise InvalidInput(
                f"images are {list(images.shape)}: height and width must be multiples of the encoder's patch, "
                f"{self.patch_size}"
            )
        embedded = self.backbone.embeddings(self.norm(images))
        return normalise_tokens(self.backbone.encoder(embedded).last_hidden_state)

    def arguments(self) -> dict[str, Any]:
        """What `config.json` beside its weights has to hold to build it again."""
        return dict(self.config.to_diff_dict())
