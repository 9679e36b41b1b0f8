"""The structure flow model: exact savings, scenes in one batch, exchangeable assets, precision, bad configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scenegen.generator.structure.flow import SparseStructureFlowModel, patchify, unpatchify
from scenegen.scene import InvalidInput
from scenegen.training.initial import start_from_nothing

ARGS: dict[str, Any] = {
    "resolution": 4,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "cond_channels": 32,
    "num_blocks": 2,
    "num_heads": 2,
    "patch_size": 2,
    "qk_rms_norm": True,
    "use_global": True,
    "trunk_depth": 2,
    "local_tokens": 6,
}
READOUT: dict[str, Any] = {
    "channels": 32,
    "latent_tokens": 8,
    "latent_channels": 32,
    "local_tokens": 6,
    "num_heads": 2,
    "depth": 1,
}
CONDITION_TOKENS = 3 * 6 + 2 * 5


def flow(seed: int = 0, **changes: Any) -> SparseStructureFlowModel:
    """A small model whose every parameter matters."""
    torch.manual_seed(seed)
    model = SparseStructureFlowModel(**{**ARGS, **changes}).eval()
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def scene(assets: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(assets, 4, 4, 4, 4, generator=generator)
    cond = torch.randn(assets, CONDITION_TOKENS, 32, generator=generator)
    return x, 1000 * torch.rand(assets, generator=generator), cond


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("readout", [None, READOUT])
def test_guided_batch_equals_two_plain_passes(readout: dict[str, Any] | None) -> None:
    model = flow(readout=readout)
    x, _, cond = scene(3)
    with torch.no_grad():
        prediction = model.velocity(x, torch.tensor([700.0]), model.encode_condition(cond), guided=True)
        v, positions = model(x, torch.full((3,), 700.0), cond)
        v_negative, _ = model(x, torch.full((3,), 700.0), torch.zeros_like(cond))
    close(prediction.velocity, v)
    close(prediction.negative, v_negative)
    close(prediction.positions, positions)
    assert not torch.allclose(v, v_negative, atol=1e-2)


def test_a_guided_batch_has_one_time() -> None:
    model = flow()
    x, t, cond = scene(2)
    with pytest.raises(InvalidInput, match="2 flow times"):
        model.velocity(x, t, model.encode_condition(cond), guided=True)


@pytest.mark.parametrize("readout", [None, READOUT])
def test_scenes_in_one_batch_do_not_hear_one_another(readout: dict[str, Any] | None) -> None:
    model = flow(readout=readout)
    scenes = [scene(3, seed=s) for s in (1, 2)]
    x, t, cond = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    with torch.no_grad():
        v, positions = model(x, t, cond, scenes=2)
        cache = model.encode_condition(cond, scenes=2)
        guided, unguided = (model.velocity(x, t[:1], cache, guided=guided) for guided in (True, False))
        single = [model(*one) for one in scenes]
    close(v, torch.cat([one[0] for one in single]))
    close(positions, torch.cat([one[1] for one in single]))
    close(guided.velocity, unguided.velocity)


def test_assets_other_than_the_query_are_exchangeable() -> None:
    model = flow()
    x, t, cond = scene(4)
    order = torch.tensor([0, 3, 1, 2])
    with torch.no_grad():
        v, positions = model(x, t, cond)
        v_permuted, positions_permuted = model(x[order], t[order], cond[order])
        v_other_query, _ = model(x.flip(0), t.flip(0), cond.flip(0))
    close(v_permuted, v[order])
    close(positions_permuted, positions[order])
    assert not torch.allclose(v_other_query, v.flip(0), atol=1e-3)


def test_positions_only_where_wanted() -> None:
    model = flow()
    x, t, cond = scene(2)
    calls: list[int] = []
    model.position_head.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert model.velocity(x, t, model.encode_condition(cond), positions=False).positions is None
    assert not calls


def test_query_placement_is_the_identity_when_evaluating_and_free_in_training() -> None:
    model = flow()
    x, t, cond = scene(4)
    with torch.no_grad():
        evaluated = model(x, t, cond, scenes=2)[1]
        trained = model.train()(x, t, cond, scenes=2)[1]
    identity = torch.tensor([0, 0, 0, 1, 0, 0, 0, 1.0])
    assert (evaluated[[0, 2]] == identity).all()
    assert not torch.allclose(trained[[0, 2]], identity.expand(2, -1))
    close(trained[[1, 3]], evaluated[[1, 3]])


def test_half_precision_stays_near_single() -> None:
    model, half = flow(), SparseStructureFlowModel(**ARGS, use_fp16=True).eval()
    half.load_state_dict(model.state_dict())
    assert half.blocks[0].mlp.mlp[0].weight.dtype == torch.float16
    assert half.out_layer.weight.dtype == half.blocks[0].norm2.weight.dtype == torch.float32
    x, t, cond = scene(2)
    with torch.no_grad():
        for actual, expected in zip(half(x, t, cond), model(x, t, cond), strict=True):
            assert actual.dtype == torch.float32
            torch.testing.assert_close(actual, expected, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("readout", [None, READOUT])
def test_gradients_reach_everything_that_matters(autocast: bool, readout: dict[str, Any] | None) -> None:
    model = flow(readout=readout).train()
    x, t, cond = scene(4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        v, positions = model(x, t, cond, scenes=2)
    (v.float().square().mean() + positions.float().square().mean()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    unused = {"position_head.empty_pose_tokens"} if readout else set()
    unused |= {f"position_head.trunk.{i}.attn.{qk}_rms_norm.gamma" for i in (0, 1) for qk in "qk"}
    assert without <= unused


def test_checkpointing_changes_no_gradient() -> None:
    model, saving = flow().train(), flow(use_checkpoint=True).train()
    x, t, cond = scene(2)
    for m in (model, saving):
        m(x, t, cond)[0].square().sum().backward()
    for a, b in zip(model.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_readout_adds_no_parameter_to_models_without_one() -> None:
    plain, with_readout = flow(), flow(readout=READOUT)
    extra = with_readout.state_dict().keys() - plain.state_dict().keys()
    assert extra and all(name.startswith(("readout.", "readout_in.")) for name in extra)
    assert not plain.state_dict().keys() - with_readout.state_dict().keys()


def test_training_with_a_readout_starts_from_its_placements() -> None:
    model = SparseStructureFlowModel(**ARGS, readout=READOUT).train()
    start_from_nothing(model)
    x, t, cond = scene(3)
    with torch.no_grad():
        cache = model.encode_condition(cond)
        prediction = model.velocity(x, t, cache)
    assert cache.estimate is not None
    close(prediction.positions, cache.estimate.placements)
    assert not prediction.velocity.any()


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("fp16", [False, True])
def test_inference_never_stores_attention_scores(fp16: bool) -> None:
    model = SparseStructureFlowModel(**{**ARGS, "resolution": 16, "num_blocks": 1, "use_fp16": fp16}).eval()
    x, cond = torch.randn(2, 4, 16, 16, 16), torch.randn(2, CONDITION_TOKENS, 32)
    with torch.no_grad(), LargestTensor() as watch:
        model.velocity(x, torch.tensor([500.0]), model.encode_condition(cond), guided=True)
    tokens = 512 + 5
    assert watch.elements < 2 * tokens * tokens


def test_patches_are_channel_major_and_come_back() -> None:
    x = torch.arange(2 * 3 * 4**3).reshape(2, 3, 4, 4, 4)
    tokens = patchify(x, 2)
    i, j, k, c, (a, b, d) = 1, 0, 1, 2, (0, 1, 1)
    assert tokens[1, (i * 2 + j) * 2 + k, c * 8 + (a * 2 + b) * 2 + d] == x[1, c, 2 * i + a, 2 * j + b, 2 * k + d]
    assert (unpatchify(tokens, 2, 4) == x).all()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pe_mode": "rope"}, "pe_mode"),
        ({"share_mod": True}, "share_mod"),
        ({"num_register_tokens": 0}, "num_register_tokens"),
        ({"cond_channels": 16}, "cond_channels"),
        ({"use_batch_encoder": True}, "use_batch_encoder"),
        ({"pose_encoding_type": "absT_eulerR_S"}, "pose_encoding_type"),
        ({"resolution": 5}, "resolution"),
    ],
)
def test_configs_that_cannot_work_are_named(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        SparseStructureFlowModel(**{**ARGS, **changes})


def test_assets_without_conditions_are_refused() -> None:
    model = flow()
    x, t, cond = scene(3)
    with pytest.raises(InvalidInput, match="3 assets"):
        model(x, t, cond[:2])
    with pytest.raises(InvalidInput, match="equally many"):
        model(x, t, cond, scenes=2)
