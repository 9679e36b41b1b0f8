"""Packs a folder of manifests (one JSON per checkpoint: name, shape, dtype of every tensor) into `published.json.gz`.

`python -m scenegen.generator.manifests.build FOLDER`. DINOv2's comes from the pinned transformers, whose model it is.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import torch

from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.manifests import PUBLISHED

DINOV2 = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 518,
    "patch_size": 14,
    "num_register_tokens": 4,
}


def pack(folder: Path) -> dict[str, Any]:
    """What `published.json.gz` holds, from the folder's manifests."""
    packed: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        manifest = json.loads(path.read_text())
        config = manifest["config"]
        tensors = manifest.get("state_dict") or manifest["tensors"]
        packed[path.stem] = {
            "model": config["name"],
            "args": config["args"],
            "tensors": {name: shape for name, shape, _ in tensors},
        }
    with torch.device("meta"):
        backbone = ImageEncoder(DINOV2).backbone
    packed["dinov2_vitl14_reg"] = {
        "model": "ImageEncoder",
        "args": DINOV2,
        "tensors": {name: list(tensor.shape) for name, tensor in backbone.state_dict().items()},
    }
    return packed


if __name__ == "__main__":
    PUBLISHED.write_bytes(gzip.compress(json.dumps(pack(Path(sys.argv[1])), sort_keys=True).encode(), mtime=0))
