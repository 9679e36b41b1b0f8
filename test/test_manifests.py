"""Models built at published size have exactly the parameters of the published checkpoints."""

from __future__ import annotations

import pytest
import torch

from scenegen.generator.checkpoints.models import MODELS, VGGT_1B
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.manifests import manifests

PUBLISHED = manifests()
PARAMETERS = {
    "ss_flow_scenegen": 908_802_584 + 4096 * 1024,
    "ss_flow_img_dit_L_16l8_fp16": 555_543_560 + 4096 * 1024,
    "ss_dec_conv3d_16l8_fp16": 73_671_201,
    "ss_enc_conv3d_16l8_fp16": 59_298_192,
}
"""spec/structure.md section 0; the two flows also store the positions of their tokens."""


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_tensor_has_its_place(name: str) -> None:
    manifest = PUBLISHED[name]
    with torch.device("meta"):
        if manifest.model == "ImageEncoder":
            model: torch.nn.Module = ImageEncoder(manifest.args).backbone
        else:
            model = MODELS[manifest.model](**manifest.args)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == dict(manifest.tensors)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_manifests_hold_as_many_numbers_as_were_counted(name: str) -> None:
    assert PUBLISHED[name].count == PARAMETERS[name]


def test_what_is_known_of_vggt_1b_is_what_its_manifest_says() -> None:
    args = PUBLISHED["vggt_1b"].args
    assert all(args[key] == value for key, value in VGGT_1B.items() if key != "patch_embed_vit")
    assert VGGT_1B["patch_embed_vit"].items() <= args["patch_embed_vit"].items()
