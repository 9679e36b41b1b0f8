"""Every parameter of the published checkpoints, by name and shape, as facts to check models and files against.

Dtypes are left out on purpose: a stored file may hold others than the model has (spec/structure.md section 0).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent / "published.json.gz"


@dataclass(frozen=True)
class Manifest:
    """One published model: the name and arguments that its `X.json` has, and the shapes of its tensors by name."""

    model: str
    args: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(shape) for shape in self.tensors.values())


@cache
def manifests() -> Mapping[str, Manifest]:
    """Every manifest, by the name of the published file."""
    content = json.loads(gzip.decompress(PUBLISHED.read_bytes()))
    return {
        name: Manifest(entry["model"], entry["args"], {key: tuple(shape) for key, shape in entry["tensors"].items()})
        for name, entry in content.items()
    }
