"""What the stages `encoders` and `structure` draw, show and keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_stream import SIZES, encoders, structure
from torch import Tensor, nn

from scenegen.synthetic import FAMILIES
from scenegen.training import shards
from scenegen.training.encoders import FAMILY_WEIGHTS, LATENTS, encode_all
from scenegen.training.shards import Samples, draw_shard

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.of_shard(7, draw_shard(range(7, 31), SIZES))


def test_hard_families_are_drawn_more_often_than_easy_ones(samples: Samples) -> None:
    stage = encoders(samples)
    stage.see(samples, torch.zeros(0))
    there = samples.objects["family"]
    rows = stage.draw_objects(np.random.default_rng(0), 40_000)
    assert rows.min() >= 0 and rows.max() < len(there)
    each = np.bincount(there[rows], minlength=len(FAMILIES)) / np.bincount(there, minlength=len(FAMILIES)).clip(1)
    wanted = np.array([FAMILY_WEIGHTS.get(family, 1.0) for family in FAMILIES])
    seen = each > 0
    assert len(set(wanted[seen])) > 2, "the scenes hold hard, easy and other families"
    np.testing.assert_allclose(each[seen] / wanted[seen] / (each[seen] / wanted[seen]).mean(), 1, atol=0.1)


def test_a_flow_never_sees_the_truth_without_noise(samples: Samples) -> None:
    stage = structure(samples)
    stage.see(samples, encode_all(stage.vae, samples))
    answered = noisy = 0

    def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal answered, noisy
        x, t = given[0], given[1] / 1000
        spread = x.flatten(1).std(1)
        answers = spread == 0
        assert (t[answers] == 1).all(), "without noise there is nothing in x to tell the truth from"
        assert (spread[~answers] > 0.9 * t[~answers]).all()
        answered, noisy = answered + int(answers.sum()), noisy + int((~answers).sum())

    handle = stage.model.register_forward_pre_hook(look)
    for step in range(6):
        terms = stage.loss(np.random.default_rng(step), torch.Generator().manual_seed(step))
        assert all(torch.isfinite(term) for term in terms.values())
    handle.remove()
    assert answered > noisy > 0


def test_latents_are_kept_beside_the_shards_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SCENES_PER_SHARD", 2)
    for first_seed in (50, 52):
        shards._make_shard((tmp_path, first_seed, *SIZES.values()))
    both = Samples(tmp_path)
    vae = encoders(both).vae
    latents = encode_all(vae, both)
    (kept,) = tmp_path.glob(f"{LATENTS}*")
    with monkeypatch.context() as patched:
        patched.setattr(vae.encoder, "forward", lambda _: pytest.fail("they were encoded again"))
        torch.testing.assert_close(encode_all(vae, Samples(tmp_path)), latents, rtol=0, atol=0)

    assert len(encode_all(vae, Samples(tmp_path, limit=1))) < len(latents)
    assert not kept.exists(), "one file is kept, of the shards asked for last"
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.mul_(1.5)
    changed = encode_all(vae, Samples(tmp_path))
    assert changed.shape == latents.shape and not torch.allclose(changed, latents), "another VAE, other latents"
