"""DINOv2, the VGGT aggregator and the layout of condition tokens."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from scenegen.generator.conditioning import Conditioner, condition_tokens
from scenegen.generator.encoders.dinov2 import ImageEncoder, normalise_tokens
from scenegen.generator.encoders.rope import rotary_tables, rotate
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.scene import InvalidInput

DINOV2 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "num_register_tokens": 4,
}
VGGT = {"embed_dim": 32, "patch_embed_vit": {"depth": 1, "num_heads": 2}, "aa_depth": 2, "aa_heads": 2, "img_size": 28}


@pytest.fixture
def image_encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(DINOV2).eval()


@pytest.fixture
def aggregator() -> VGGTAggregator:
    torch.manual_seed(0)
    return VGGTAggregator(**VGGT).eval()


def test_image_tokens_are_those_before_the_final_norm(image_encoder: ImageEncoder) -> None:
    images = torch.rand(2, 3, 28, 28)
    tokens = image_encoder(images)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    hidden = image_encoder.backbone(normalised, output_hidden_states=True).hidden_states[-1]
    assert tokens.shape == (2, image_encoder.num_tokens, 32) == (2, 1 + 4 + 4, 32)
    torch.testing.assert_close(tokens, normalise_tokens(hidden))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 9), atol=1e-5, rtol=0)


def test_image_encoder_is_described_by_its_arguments(image_encoder: ImageEncoder) -> None:
    again = ImageEncoder(image_encoder.arguments())
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in image_encoder.state_dict().items()
    }


def test_rotation_keeps_length_and_depends_on_the_difference_of_positions() -> None:
    positions = torch.tensor([[0, 0], [1, 2], [3, 5], [4, 7]])
    tables = rotary_tables(positions, 16, 100.0)
    q, k = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 1, 4, 16)
    rotated_q, rotated_k = rotate(q, tables), rotate(k, tables)
    torch.testing.assert_close(rotated_q.norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(rotated_q[..., 0, :], q[..., 0, :])
    # (1, 2) to (0, 0) is as far as (4, 7) to (3, 5)
    torch.testing.assert_close(
        (rotated_q[..., 1, :] * rotated_k[..., 0, :]).sum(), (rotated_q[..., 3, :] * rotated_k[..., 2, :]).sum()
    )


def test_views_in_one_sequence_see_each_other_and_views_in_a_batch_do_not(aggregator: VGGTAggregator) -> None:
    first, second, other = torch.rand(3, 3, 28, 28)
    joint = aggregator(torch.stack([first, second])[None])[0]
    joint_with_other = aggregator(torch.stack([first, other])[None])[0]
    assert joint.shape == (1, 2, aggregator.num_tokens, 64)
    assert (joint[0, 0] - joint_with_other[0, 0]).abs().max() > 1e-4
    apart = aggregator(torch.stack([first, second])[:, None])[0]
    apart_with_other = aggregator(torch.stack([first, other])[:, None])[0]
    torch.testing.assert_close(apart[0], apart_with_other[0])


def test_rounds_asked_for_come_in_their_order(aggregator: VGGTAggregator) -> None:
    images = torch.rand(1, 1, 3, 28, 28)
    last, first = aggregator(images, rounds=(-1, 0))
    torch.testing.assert_close(last, aggregator(images)[0])
    assert (last - first).abs().max() > 1e-3


def test_images_that_do_not_fit_the_patch_are_refused(image_encoder: ImageEncoder, aggregator: VGGTAggregator) -> None:
    with pytest.raises(InvalidInput, match="14"):
        aggregator(torch.rand(1, 1, 3, 30, 28))
    with pytest.raises(InvalidInput, match="14"):
        image_encoder(torch.rand(1, 3, 28, 30))


def test_condition_tokens_repeat_the_scene_of_each_assets_view() -> None:
    assets, masks = torch.randn(2, 3, 5, 8)
    scenes, geometry = torch.randn(2, 5, 8), torch.randn(2, 4, 16)
    tokens = condition_tokens(assets, masks, scenes, geometry, torch.tensor([1, 0, 1]))
    assert tokens.shape == (3, 3 * 5 + 2 * 4, 8)
    frame, across = geometry[1].chunk(2, dim=-1)
    torch.testing.assert_close(tokens[0], torch.cat([assets[0], masks[0], scenes[1], frame, across]))
    torch.testing.assert_close(tokens[1, 10:15], scenes[0])


def test_gradients_reach_both_encoders(image_encoder: ImageEncoder, aggregator: VGGTAggregator) -> None:
    conditioner = Conditioner(image_encoder, aggregator).train()
    images = torch.rand(3, 3, 28, 28)
    tokens = conditioner(images, images, images[:2], images[:2, None], torch.tensor([0, 0, 1]), torch.zeros(3, 7))
    tokens.square().mean().backward()
    unused = {name for name, parameter in conditioner.named_parameters() if parameter.grad is None}
    assert unused == {
        "image_encoder.backbone.embeddings.mask_token",
        "image_encoder.backbone.layernorm.weight",
        "image_encoder.backbone.layernorm.bias",
        "geometry_encoder.patch_embed.mask_token",
    }


def test_importing_the_encoders_needs_no_torchvision() -> None:
    code = "import sys, scenegen.generator.conditioning; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
