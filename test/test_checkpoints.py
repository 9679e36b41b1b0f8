"""Checkpoints: what is written is read; anything else is an error that names the file and the trouble."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from random_checkpoint import DECODER, GEOMETRY_ENCODER, drawn_view, write_random_checkpoint
from safetensors.torch import load_file, save_file

from scenegen import weights
from scenegen.generator.checkpoints import Mode, load_model, load_pipeline, save_model, structure_sampler
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.pipeline import SceneGen
from scenegen.generator.structure.vae import SparseStructureDecoder
from scenegen.scene import InvalidInput
from scenegen.weights import find_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "weights")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_saved_is_loaded_in_the_models_own_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = SparseStructureDecoder(**DECODER)
    save_model(tmp_path, "decoder.v1", saved, DECODER, dtype)
    loaded = load_model(tmp_path / "decoder.v1", SparseStructureDecoder)
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert (tensor == saved.state_dict()[name].to(dtype).float()).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.v1.json", "decoder.v1.safetensors"]


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["camera_token"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["camera_head.weight"] = torch.zeros(3)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["camera_token"] = torch.zeros(1, 2, 1, 16)


def integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["camera_token"] = tensors["camera_token"].long()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"camera_token is missing \(expected \[1, 2, 1, 32\]\)"),
        (add, r"camera_head.weight \[3\] is not part of the model"),
        (reshape, r"camera_token is \[1, 2, 1, 16\], expected \[1, 2, 1, 32\]"),
        (integers, r"camera_token holds I64 values"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    path = folder / "vggt.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InvalidInput, match=message) as caught:
        SceneGen.from_pretrained(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_truncated_file_is_called_damaged(folder: Path, keep: int) -> None:
    path = folder / "ss_flow.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidInput, match="ss_flow.safetensors is damaged"):
        SceneGen.from_pretrained(folder)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_pickles_are_refused_with_the_reason(folder: Path, suffix: str) -> None:
    path = folder / "ss_dec.safetensors"
    path.rename(path.with_suffix(suffix))
    with pytest.raises(InvalidInput, match="can run code"):
        SceneGen.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["ss_flow.json", "ss_dec.safetensors", "dinov2/config.json", "dinov2/model.safetensors"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidInput, match=name):
        SceneGen.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "SparseStructureDecoder"', "not JSON"),
        ("[]", "expected an object"),
        ('{"name": "SwinDecoder", "args": {}}', "'SwinDecoder'.* is unknown"),
        ('{"name": "SparseStructureDecoder"}', "args None"),
        ('{"name": "SparseStructureEncoder", "args": {}}', "a SparseStructureDecoder is needed"),
        ('{"name": "SparseStructureDecoder", "args": {"colour": 1}}', "does not describe"),
    ],
)
def test_a_bad_description_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "ss_dec.json").write_text(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        SceneGen.from_pretrained(folder)
    assert "ss_dec.json" in str(caught.value)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "DDIM"}, "'DDIM' is unknown"),
        ({}, "None is unknown"),
        ({"name": "FlowEulerGuidanceIntervalSamplerVGGT", "params": {"steps": 0}}, "steps"),
        ({"name": "FlowEulerGuidanceIntervalSamplerVGGT", "params": {"eta": 1}}, "eta"),
        ({"name": "FlowEulerGuidanceIntervalSamplerVGGT", "params": {"cfg_interval": [1]}}, "cfg_interval"),
        (
            {"name": "FlowEulerGuidanceIntervalSamplerVGGT", "params": {"solver": "heun"}},
            "heun.* expected .*euler, ab2",
        ),
    ],
)
def test_an_unknown_sampler_is_refused(folder: Path, sampler: dict[str, object], message: str) -> None:
    path = folder / "pipeline.json"
    content = json.loads(path.read_text())
    content["args"]["sparse_structure_sampler"] = sampler
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=message):
        SceneGen.from_pretrained(folder)


def test_published_sampler_parameters_are_understood(folder: Path) -> None:
    settings = structure_sampler(folder, load_pipeline(folder))
    assert (settings.steps, settings.rescale_t, settings.guidance, settings.interval) == (3, 3.0, 1.0, (0.5, 1.0))


def test_fast_is_two_fifths_of_the_steps_unless_the_sampler_says_otherwise(folder: Path) -> None:
    pipeline = load_pipeline(folder)
    exact, fast = structure_sampler(folder, pipeline), structure_sampler(folder, pipeline, "fast")
    assert fast == replace(exact, solver="ab2", steps=2, rescale_t=2.0)
    own = pipeline["sparse_structure_sampler"] | {"fast": {"steps": 7, "rescale_t": 1.5}}
    fast = structure_sampler(folder, {"sparse_structure_sampler": own}, "fast")
    assert fast == replace(exact, steps=7, rescale_t=1.5)
    assert structure_sampler(folder, {"sparse_structure_sampler": own}) == exact
    with pytest.raises(InvalidInput, match="fast {'step': 7}"):
        structure_sampler(folder, {"sparse_structure_sampler": own | {"fast": {"step": 7}}}, "fast")


def test_a_fast_generator_samples_fast(folder: Path) -> None:
    assert SceneGen.from_pretrained(folder, mode="fast").sampler.solver == "ab2"


@pytest.mark.parametrize(("amx", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_half_precision_on_a_processor_is_bfloat16_in_fast_mode_where_it_is_quick(
    folder: Path, monkeypatch: pytest.MonkeyPatch, amx: bool, precision: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    for name in ("ss_flow", "ss_dec"):
        described = json.loads((folder / f"{name}.json").read_text())
        described["args"]["use_fp16"] = True
        (folder / f"{name}.json").write_text(json.dumps(described))
    exact, fast = (SceneGen.from_pretrained(folder, mode=mode) for mode in get_args(Mode))
    assert (
        {p.dtype for p in exact.flow.parameters()} == {p.dtype for p in exact.decoder.parameters()} == {torch.float32}
    )
    for part in (fast.flow, fast.decoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32, precision}
    fast.sampler = exact.sampler
    scenes = [model.generate([drawn_view()], detail="coarse") for model in (exact, fast)]
    for one, other in zip(*(scene.placements for scene in scenes), strict=True):
        np.testing.assert_allclose(one.translation, other.translation, atol=0.02)


def test_a_pipeline_without_models_is_refused(folder: Path) -> None:
    (folder / "pipeline.json").write_text('{"name": "SceneGen", "args": {}}')
    with pytest.raises(InvalidInput, match="names no models"):
        SceneGen.from_pretrained(folder)


def test_half_precision_models_keep_their_mixed_dtypes(tmp_path: Path) -> None:
    args = DECODER | {"use_fp16": True}
    save_model(tmp_path, "decoder", SparseStructureDecoder(**args), args, torch.float32)
    loaded = load_model(tmp_path / "decoder", SparseStructureDecoder)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float16, torch.float32}


def test_names_of_the_published_aggregator_load_strictly(tmp_path: Path) -> None:
    aggregator = VGGTAggregator(**GEOMETRY_ENCODER)
    save_model(tmp_path, "vggt", aggregator, GEOMETRY_ENCODER)
    assert set(load_file(tmp_path / "vggt.safetensors")) == {name for name, _ in aggregator.named_parameters()}


def test_weights_are_found_by_path_and_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights(folder) == folder and find_weights(str(folder)) == folder
    monkeypatch.setattr(weights, "_PACKAGED", (tmp_path / "nowhere", tmp_path))
    assert find_weights("weights") == folder
    for missing in ("huge", tmp_path / "none", tmp_path):
        with pytest.raises(InvalidInput, match=r"there are: weights"):
            find_weights(missing)
