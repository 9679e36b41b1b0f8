"""The latent encoder, decoders and flow model: assets apart, gradients, what decoders give, what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sparse_helpers import GAUSSIANS, TRANSFORMER, coordinates, filled, flow_model, random
from torch import Tensor, nn

from scenegen.generator.checkpoints import load_model, save_model
from scenegen.generator.latents.encoder import SLatEncoder, draw_latents
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.gaussian_decoder import GaussianParameters, SLatGaussianDecoder
from scenegen.generator.latents.mesh_decoder import SLatMeshDecoder
from scenegen.generator.latents.normalisation import PUBLISHED, LatentNormalisation
from scenegen.generator.latents.radiance_decoder import SLatRadianceFieldDecoder
from scenegen.generator.nn.sparse import Voxels
from scenegen.scene import InvalidInput

MESH = TRANSFORMER | {"model_channels": 256, "mlp_ratio": 1, "representation_config": {"use_color": True}}


def gaussian_decoder() -> SLatGaussianDecoder:
    return filled(SLatGaussianDecoder(**TRANSFORMER, representation_config=GAUSSIANS))


def radiance_decoder() -> SLatRadianceFieldDecoder:
    return filled(SLatRadianceFieldDecoder(**TRANSFORMER, representation_config={"rank": 2, "dim": 4}))


def mesh_decoder(**changes: object) -> SLatMeshDecoder:
    return filled(SLatMeshDecoder(**(MESH | changes)))


def encoder() -> SLatEncoder:
    return filled(SLatEncoder(**(TRANSFORMER | {"attn_mode": "full"}), in_channels=8))


def evaluate(model: nn.Module, x: Tensor, coords: Tensor, cond: Tensor) -> Tensor:
    if isinstance(model, SLatFlowModel):
        return model(x, Voxels(coords), torch.full((len(cond),), 400.0), cond)
    result = model(x, Voxels(coords))
    if isinstance(model, SLatEncoder):
        return torch.cat(result, dim=1)
    return result[0] if isinstance(model, SLatMeshDecoder) else result


MODELS: list[Callable[[], nn.Module]] = [encoder, flow_model, gaussian_decoder, radiance_decoder, mesh_decoder]


@pytest.mark.parametrize("make", MODELS)
def test_assets_of_a_batch_are_each_as_if_alone(make: Callable[[], nn.Module]) -> None:
    model, coords, x, cond = make(), coordinates((20, 12)), random(32, 8), random(2, 5, 12)
    with torch.no_grad():
        together = evaluate(model, x, coords, cond)
        alone = []
        for sample, (rows, places) in enumerate(zip(x.split([20, 12]), coords.split([20, 12]), strict=True)):
            places = places.clone()
            places[:, 0] = 0
            alone.append(evaluate(model, rows, places, cond[sample : sample + 1]))
    scale = together.abs().max().item()
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5 * scale, rtol=0)
    assert together.std(0).min() > 1e-3 * scale


@pytest.mark.parametrize("make", MODELS)
def test_every_parameter_learns(make: Callable[[], nn.Module]) -> None:
    model, x = make().train(), random(32, 8).requires_grad_()
    result = evaluate(model, x, coordinates((20, 12)), random(2, 5, 12))
    (result * random(*result.shape, seed=5)).mean().backward()
    assert x.grad is not None and x.grad.abs().min() > 0
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize("make", [flow_model, mesh_decoder])
def test_checkpointed_gradients_are_the_same(make: Callable[..., nn.Module]) -> None:
    gradients = []
    for use_checkpoint in (False, True):
        model = make(use_checkpoint=use_checkpoint).train()
        evaluate(model, random(32, 8), coordinates((20, 12)), random(2, 5, 12)).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_training_through_the_activated_gaussians() -> None:
    model, x = gaussian_decoder().train(), random(32, 8)
    values = [vars(gaussians).values() for gaussians in model.decode(x, Voxels(coordinates((20, 12))))]
    sum(value.square().sum() for asset in values for value in asset).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_gaussians_of_no_opinion_are_those_of_the_biases() -> None:
    model = gaussian_decoder()
    nothing = GaussianParameters(*(torch.zeros(1, *shape) for shape in [(3,), (1, 3), (3,), (4,), (1,)]))
    gaussians = model.activate(nothing)
    assert gaussians.positions.tolist() == [[-0.5, -0.5, -0.5]]
    assert gaussians.colours.tolist() == [[0.5, 0.5, 0.5]]
    assert gaussians.scales[0].tolist() == pytest.approx([math.hypot(4e-3, 9e-4)] * 3, rel=1e-5)
    assert gaussians.rotations.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert gaussians.opacities.tolist() == pytest.approx([0.1], rel=1e-5)


def test_gaussians_stay_by_their_voxel() -> None:
    model, coords = gaussian_decoder(), coordinates((20, 12))
    first, second = model.decode(10 * random(32, 8), Voxels(coords))
    assert (len(first.positions), len(second.positions)) == (80, 48)
    centres = ((coords[20:, 1:] + 0.5) / 16 - 0.5).repeat_interleave(4, dim=0)
    away = (second.positions - centres).abs()
    assert away.max() <= 0.75 / 16 + 1e-6
    assert away.max() > 0.3 / 16


def test_mesh_fields_of_each_asset() -> None:
    model, coords, x = mesh_decoder(representation_config={"use_color": False}), coordinates((6, 4)), random(10, 8)
    with torch.no_grad():
        fields, (features, fine) = model.decode(x, Voxels(coords)), model(x, Voxels(coords))
    assert [field.resolution for field in fields] == [64, 64]
    assert [tuple(field.features.shape) for field in fields] == [(384, 53), (256, 53)]
    assert torch.equal(torch.cat([field.coords for field in fields]), fine.coords[:, 1:])
    assert torch.equal(torch.unique(fields[1].coords // 4, dim=0).int(), torch.unique(coords[6:, 1:], dim=0).int())
    torch.testing.assert_close(torch.cat([field.features for field in fields]), features, atol=1e-3, rtol=1e-4)


def test_half_precision_models_stay_near_and_their_residuals_are_half() -> None:
    coords, x, cond = coordinates((20, 12)), random(32, 8), random(2, 5, 12)
    exact, half = flow_model(), flow_model(use_fp16=True)
    exact.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    assert half.blocks[0].norm2.weight.dtype == half.out_layer.weight.dtype == torch.float32
    assert half.out_blocks[0].conv1.conv.weight.dtype == torch.float16
    with torch.no_grad():
        expected, result = evaluate(exact, x, coords, cond), evaluate(half, x, coords, cond)
    assert result.dtype == torch.float32
    assert 0 < (result - expected).abs().max() < 0.02 * expected.abs().max()


def test_latents_drawn_at_no_deviation_are_their_mean() -> None:
    mean, noise = random(5, 8), random(5, 8, seed=3)
    torch.testing.assert_close(draw_latents(mean, torch.full_like(mean, -80.0), noise), mean)
    torch.testing.assert_close(draw_latents(mean, torch.zeros_like(mean), noise), mean + noise)


def test_normalisation_is_undone_by_its_inverse() -> None:
    latents = random(7, 8)
    torch.testing.assert_close(PUBLISHED.restore(PUBLISHED.normalise(latents)), latents)
    assert PUBLISHED.restore(torch.zeros(1, 8))[0].tolist() == pytest.approx(list(PUBLISHED.mean))
    with pytest.raises(InvalidInput, match="deviations above 0"):
        LatentNormalisation([0.0], [0.0])


def test_training_names_load_as_the_model_they_wrap(tmp_path: Path) -> None:
    arguments = {**TRANSFORMER, "representation_config": GAUSSIANS}
    model = gaussian_decoder()
    save_model(tmp_path, "gaussians", model, arguments, torch.float32)
    description = tmp_path / "gaussians.json"
    description.write_text(json.dumps({"name": "ElasticSLatGaussianDecoder", "args": arguments}))
    loaded = load_model(tmp_path / "gaussians", SLatGaussianDecoder)
    x, voxels = random(32, 8), Voxels(coordinates((20, 12)))
    assert torch.equal(loaded(x, voxels), model(x, voxels))


def test_bad_shapes_and_configurations_are_named() -> None:
    model, voxels = flow_model(), Voxels(coordinates((20, 12)))
    time = torch.ones(1)
    with pytest.raises(InvalidInput, match=r"\[31, 8\], expected \[32 voxels, 8\]"):
        model(random(31, 8), voxels, time, random(2, 5, 12))
    with pytest.raises(InvalidInput, match="2 assets but conditions of 1"):
        model(random(32, 8), voxels, time, random(1, 5, 12))
    with pytest.raises(InvalidInput, match="expected \\[assets, tokens, 12\\]"):
        model(random(32, 8), voxels, time, random(2, 5, 11))
    with pytest.raises(InvalidInput, match=r"\[32, 9\], expected \[32 voxels, 8\]"):
        gaussian_decoder()(random(32, 9), voxels)
    with pytest.raises(InvalidInput, match="patch_size 4"):
        flow_model(patch_size=4)
    with pytest.raises(InvalidInput, match="share_mod"):
        flow_model(share_mod=True)
    with pytest.raises(InvalidInput, match="attn_mode 'shift_window'"):
        SLatEncoder(**(TRANSFORMER | {"attn_mode": "shift_window"}), in_channels=8)
    with pytest.raises(InvalidInput, match="scaling_activation 'relu'"):
        SLatGaussianDecoder(**TRANSFORMER, representation_config=GAUSSIANS | {"scaling_activation": "relu"})


def test_shared_modulation_without_outer_blocks() -> None:
    model = flow_model(share_mod=True, io_block_channels=None, patch_size=1)
    coords, cond = coordinates((20, 12)), random(2, 5, 12)
    result = evaluate(model, random(32, 8), coords, cond)
    with torch.no_grad():
        model.adaLN_modulation[1].weight.mul_(2)
    assert result.shape == (32, 8)
    assert (evaluate(model, random(32, 8), coords, cond) - result).abs().max() > 1e-3
