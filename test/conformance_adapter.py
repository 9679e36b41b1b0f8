"""Builds the product's own modules for conformance cases: glue, not copies.

A case's config names what to build ("name" or "kind"); BUILDERS maps that to a function of the case's arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from scenegen.generator.structure.coords import occupied_voxels
from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder

Config = dict[str, Any]


class _Coords(nn.Module):
    def __init__(self, decoder: Config) -> None:
        super().__init__()
        self.decoder = build_model(decoder)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"coords": occupied_voxels(self.decoder(z))}


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "SparseStructureEncoder": SparseStructureEncoder,
    "SparseStructureDecoder": SparseStructureDecoder,
    "SSCoords": _Coords,
}


def build_model(config: Config) -> nn.Module:
    """Build what a case asks for; NotImplementedError when the project has no such part."""
    name = config.get("name") or config["kind"]
    if name not in BUILDERS:
        raise NotImplementedError(name)
    return BUILDERS[name](**config.get("args", {}))
