"""Checkpoints as their authors publish them: Hugging Face's cache, DINOv2's three namings, VGGT-1B."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoint import DECODER, GEOMETRY_ENCODER, IMAGE_ENCODER, drawn_view, write_random_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from scenegen.commands.selftest import memory_in_use
from scenegen.generator.checkpoints import (
    Memory,
    latent_normalization,
    latent_sampler,
    load_pipeline,
    models,
    open_aggregator,
    open_image_encoder,
    open_model,
    open_vggt,
    save_model,
)
from scenegen.generator.checkpoints.inspection import inspect, memory_bytes
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt_cameras import VGGT
from scenegen.generator.pipeline import SceneGen
from scenegen.generator.structure.vae import SparseStructureDecoder
from scenegen.scene import InvalidInput
from scenegen.weights import find_weights

DINOV2 = IMAGE_ENCODER | {"hidden_size": 128, "num_hidden_layers": 2}
WHOLE_VGGT: dict[str, Any] = GEOMETRY_ENCODER | {
    "aa_depth": 4,
    "patch_size": 14,
    "camera_head": {"dim_in": 64, "num_heads": 2, "trunk_depth": 1, "iterations": 2},
    "dpt": {"features": 8, "out_channels": [4, 4, 4, 4], "intermediate_layer_idx": [0, 1, 2, 3]},
}


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    encoder = ImageEncoder(DINOV2)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return encoder.eval()


def as_version_4(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    names |= {"o_proj": "output.dense"}
    renamed = {}
    for name, value in tensors.items():
        for new, old in names.items():
            name = name.replace(f".attention.{new}.", f".attention.{old}.")
        renamed[name] = value
    return renamed


def as_authors(t: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {
        "cls_token": t["embeddings.cls_token"],
        "mask_token": t["embeddings.mask_token"],
        "register_tokens": t["embeddings.register_tokens"],
        "pos_embed": t["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        out[f"patch_embed.proj.{kind}"] = t[f"embeddings.patch_embeddings.projection.{kind}"]
        out[f"norm.{kind}"] = t[f"layernorm.{kind}"]
        for i in range(2):
            ours, theirs = f"encoder.layer.{i}", f"blocks.{i}"
            fused = [t[f"{ours}.attention.{part}_proj.{kind}"] for part in "qkv"]
            out[f"{theirs}.attn.qkv.{kind}"] = torch.cat(fused)
            out[f"{theirs}.attn.proj.{kind}"] = t[f"{ours}.attention.o_proj.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{theirs}.{part}.{kind}"] = t[f"{ours}.{part}.{kind}"]
    for i in range(2):
        for part in "12":
            out[f"blocks.{i}.ls{part}.gamma"] = t[f"encoder.layer.{i}.layer_scale{part}.lambda1"]
    return out


def test_all_three_namings_of_dinov2_give_the_same_encoder(tmp_path: Path, encoder: ImageEncoder) -> None:
    tensors = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text(json.dumps(encoder.arguments()))
    images = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        expected = encoder(images)
        for renamed in (tensors, as_version_4(tensors)):
            save_file(renamed, tmp_path / "folder/model.safetensors")
            assert (open_image_encoder(tmp_path / "folder").load()(images) == expected).all()
        save_file(as_authors(tensors), tmp_path / "authors.safetensors")
        alone = open_image_encoder(tmp_path / "authors.safetensors").load()
        assert (alone(images) == expected).all() and alone.image_size == 28


def test_a_fused_tensor_of_another_shape_is_named(tmp_path: Path, encoder: ImageEncoder) -> None:
    tensors = as_authors({name: value.clone() for name, value in encoder.backbone.state_dict().items()})
    tensors["blocks.1.attn.qkv.weight"] = torch.zeros(256, 128)
    save_file(tensors, tmp_path / "authors.safetensors")
    with pytest.raises(InvalidInput, match=r"blocks.1.attn.qkv.weight is \[256, 128\], expected \[384, 128\]"):
        open_image_encoder(tmp_path / "authors.safetensors").load()
    save_file({"cls_token": torch.zeros(1, 1, 8)}, tmp_path / "authors.safetensors")
    with pytest.raises(InvalidInput, match="not those of a DINOv2 with registers"):
        open_image_encoder(tmp_path / "authors.safetensors")


@pytest.fixture
def vggt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, VGGT]:
    """A folder as VGGT-1B on Hugging Face, of a smaller size."""
    torch.manual_seed(0)
    monkeypatch.setattr(models, "VGGT_1B", WHOLE_VGGT)
    model = VGGT(**WHOLE_VGGT).eval()
    folder = tmp_path / "VGGT-1B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"img_size": 42, "patch_size": 14, "embed_dim": 32}))
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(tensors | {"track_head.anything": torch.zeros(3)}, folder / "model.safetensors")
    return folder, model


def test_of_vggt_only_the_wanted_parts_are_read(vggt: tuple[Path, VGGT]) -> None:
    folder, model = vggt
    images = torch.rand(1, 2, 3, 42, 42)
    with torch.no_grad():
        expected = model(images)
        (tokens,) = open_aggregator(folder).load()(images)
        assert (tokens == model.aggregator(images)[0]).all()
        found = open_vggt(folder).load()(images)
    assert (found.depth == expected.depth).all() and (found.encoding == expected.encoding).all()


def test_vggt_that_misses_a_part_or_is_of_another_size_is_refused(vggt: tuple[Path, VGGT], tmp_path: Path) -> None:
    folder, model = vggt
    tensors = load_file(folder / "model.safetensors")
    del tensors["aggregator.camera_token"], tensors["camera_head.trunk_norm.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        InvalidInput, match=r"aggregator.camera_token is missing \(expected \[1, 2, 1, 32\]\)"
    ) as caught:
        open_aggregator(folder).load()
    assert "camera_head" not in str(caught.value)
    with pytest.raises(InvalidInput, match="camera_head.trunk_norm.bias is missing"):
        open_vggt(folder).load()
    (folder / "config.json").write_text('{"embed_dim": 768}')
    with pytest.raises(InvalidInput, match="embed_dim is 768"):
        open_vggt(folder)
    save_model(tmp_path, "vggt", model.aggregator, GEOMETRY_ENCODER | {"aa_depth": 4})
    with pytest.raises(InvalidInput, match="only the aggregator"):
        open_vggt(tmp_path / "vggt")


def published(tmp_path: Path, encoder_names: dict[str, str]) -> Path:
    """A folder whose pipeline.json names its encoders as the published one does."""
    folder = write_random_checkpoint(tmp_path / "scenes")
    content = json.loads((folder / "pipeline.json").read_text())
    content["args"] |= encoder_names
    (folder / "pipeline.json").write_text(json.dumps(content))
    return folder


def in_cache(files: Path, repository: str, cache: Path) -> Path:
    """Move a folder to where the Hugging Face cache would have it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "snapshots").mkdir(parents=True)
    (place / "refs").mkdir()
    files.rename(place / "snapshots/0123abcd")
    (place / "refs/main").write_text("0123abcd")
    return place


def test_a_checkpoint_is_found_in_the_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    names = {"image_cond_model": "dinov2_vitl14_reg"}
    folder = published(tmp_path, names)
    with pytest.raises(InvalidInput, match="dinov2_vitl14_reg.* not in the Hugging Face cache.*scenegen download full"):
        SceneGen.from_pretrained(folder)
    in_cache(folder / "dinov2", "facebook/dinov2-with-registers-large", tmp_path / "hub")
    place = in_cache(folder, "haoningwu/SceneGen", tmp_path / "hub")
    for name in ("haoningwu/SceneGen", place, place / "snapshots/0123abcd"):
        assert find_weights(name) == place / "snapshots/0123abcd"
    assert SceneGen.from_pretrained("haoningwu/SceneGen").generate([drawn_view()]).query == 1
    (place / "refs/main").unlink()
    assert find_weights(place) == place / "snapshots/0123abcd"
    (place / "snapshots/4567").mkdir()
    with pytest.raises(InvalidInput, match=r"has no pipeline\.json"):
        find_weights(place)


def test_an_encoder_may_stand_beside_the_models_or_be_a_pickle(tmp_path: Path) -> None:
    folder = published(tmp_path, {"image_cond_model": "dinov2_vitl14_reg"})
    (folder / "dinov2").rename(folder / "dinov2-with-registers-large")
    assert SceneGen.from_pretrained(folder).conditioner.image_encoder.image_size == 28
    (folder / "dinov2-with-registers-large").rename(folder / "elsewhere")
    (folder / "dinov2_vitl14_reg4_pretrain.pth").touch()
    with pytest.raises(InvalidInput, match="can run code.*scenegen convert .*dinov2_vitl14_reg4_pretrain.pth"):
        SceneGen.from_pretrained(folder)


def test_low_memory_gives_the_same_scene_and_holds_no_weights_between(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "weights")
    plain = SceneGen.from_pretrained(folder).generate([drawn_view()], seed=3)
    frugal = SceneGen.from_pretrained(folder, memory="low")
    for _ in range(2):
        scene = frugal.generate([drawn_view()], seed=3)
        assert all(parameter.is_meta for parameter in frugal.flow.parameters())
        assert all(parameter.is_meta for parameter in frugal.conditioner.parameters())
        for ours, other in zip(scene.placements, plain.placements, strict=True):
            assert (ours.translation == other.translation).all() and ours.scale == other.scale
        for mine, theirs in zip(scene.assets, plain.assets, strict=True):
            assert (mine.mesh.vertices == theirs.mesh.vertices).all()


def test_low_memory_is_given_back_to_the_system(tmp_path: Path) -> None:
    args = DECODER | {"channels": [128], "num_res_blocks_middle": 24}
    save_model(tmp_path, "decoder", SparseStructureDecoder(**args), args)
    stored = open_model(tmp_path / "decoder", SparseStructureDecoder)
    size = sum(4 * parameter.numel() for parameter in stored.model.parameters())
    memory = Memory([stored], low=True)
    with memory.working(stored.model):
        within = memory_in_use("cpu")
    assert size > 8e7 and memory_in_use("cpu") < within - size / 2


def test_latent_settings_are_read_or_refused(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "weights")
    args = load_pipeline(folder) | {
        "slat_sampler": {"name": "FlowEulerGuidanceIntervalSampler", "params": {"steps": 12, "cfg_strength": 4}},
        "slat_normalization": {"mean": [0.5, -1], "std": [2, 3]},
    }
    assert latent_sampler(folder, args).steps == 12 and latent_sampler(folder, args).guidance == 4
    assert latent_normalization(folder, args) == ((0.5, -1.0), (2.0, 3.0))
    with pytest.raises(InvalidInput, match="slat_sampler 'FlowEulerSamplerVGGT' is unknown"):
        latent_sampler(folder, args | {"slat_sampler": {"name": "FlowEulerSamplerVGGT"}})
    for bad in (None, {"mean": [1, 2], "std": [1]}, {"mean": [1], "std": [0]}):
        with pytest.raises(InvalidInput, match="slat_normalization is"):
            latent_normalization(folder, args | {"slat_normalization": bad})


def test_inspect_says_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "weights")
    parts = {part.role: part for part in inspect(folder)}
    flow = parts["sparse_structure_flow_model"]
    assert not flow.troubles and flow.published is None and flow.dtypes == ("F16",)
    assert flow.numbers == sum(value.numel() for value in load_file(folder / "ss_flow.safetensors").values())
    few, many = (memory_bytes(list(parts.values()), assets, 1, low=False) for assets in (1, 4))
    low = memory_bytes(list(parts.values()), 1, 1, low=True)
    assert few is not None and many is not None and low is not None and low < few < many

    tensors = load_file(folder / "ss_flow.safetensors")
    del tensors["pos_emb"]
    save_file(tensors, folder / "ss_flow.safetensors")
    (folder / "vggt.json").unlink()
    parts = {part.role: part for part in inspect(folder)}
    assert "pos_emb is missing" in parts["sparse_structure_flow_model"].troubles[0]
    assert "vggt.json is missing" in parts["vggt_model"].troubles[0]
    assert memory_bytes(list(parts.values()), 1, 1, low=False) is None
