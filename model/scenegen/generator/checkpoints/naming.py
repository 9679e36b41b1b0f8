"""The three sets of names under which DINOv2's tensors are published, brought to those of the pinned transformers.

`hub`: the file of the DINOv2 authors (dinov2_vitl14_reg4_pretrain), q, k and v in one. `transformers 4`: the file on
Hugging Face, named as transformers did before version 5. `transformers`: names of the pinned version, as we write them.
Knows nothing about files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scenegen.generator.checkpoints.tensors import Source
from scenegen.scene import InvalidInput

HEAD_CHANNELS = 64
"""Channels per attention head in every DINOv2."""

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(\w+)")
_PROJECTIONS = ("attention.q_proj", "attention.k_proj", "attention.v_proj")

_HUB = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_HUB_LAYER = {
    "attention.o_proj.weight": "attn.proj.weight",
    "attention.o_proj.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
_VERSION_4 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def stored_names(wanted: Collection[str], stored: Collection[str]) -> dict[str, Source]:
    """Where each wanted tensor (names of the pinned transformers) is stored, given the names that a file has."""
    if "cls_token" in stored:
        return {name: _in_hub(name) for name in wanted}
    if any(".attention.attention.query." in name for name in stored):
        return {name: _in_version_4(name) for name in wanted}
    return {}


def hub_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What a transformers `config.json` would say about a file with the authors' names: all of it is in its shapes.

    Raises InvalidInput when that is not a DINOv2 with registers.
    """
    try:
        hidden, _, patch, _ = shapes["patch_embed.proj.weight"]
        positions, registers = shapes["pos_embed"][1], shapes["register_tokens"][1]
        layers = sum(name.endswith("norm1.weight") for name in shapes)
        expansion = shapes["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"these tensors are not those of a DINOv2 with registers ({error}): dinov2_vitl14_reg is needed"
        ) from error
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(hidden // HEAD_CHANNELS, 1),
        "mlp_ratio": expansion // hidden,
        "image_size": round((positions - 1) ** 0.5) * patch,
        "patch_size": patch,
        "num_register_tokens": registers,
    }


def _in_hub(name: str) -> Source:
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return Source(_HUB.get(name, name))
    index, part, kind = layer.groups()
    if part in _PROJECTIONS:
        return Source(f"blocks.{index}.attn.qkv.{kind}", _PROJECTIONS.index(part), len(_PROJECTIONS))
    return Source(f"blocks.{index}.{_HUB_LAYER.get(f'{part}.{kind}', f'{part}.{kind}')}")


def _in_version_4(name: str) -> Source:
    for new, old in _VERSION_4.items():
        name = name.replace(new, old)
    return Source(name)
