"""The product's sparse networks for conformance cases: glue, not copies. The adapter merges BUILDERS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from scenegen.generator.latents.block import LatentFlowBlock
from scenegen.generator.latents.encoder import SLatEncoder, draw_latents
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.gaussian_decoder import SLatGaussianDecoder
from scenegen.generator.latents.mesh_decoder import SLatMeshDecoder
from scenegen.generator.latents.normalisation import LatentNormalisation
from scenegen.generator.latents.radiance_decoder import SLatRadianceFieldDecoder
from scenegen.generator.latents.sampling import sample_latents
from scenegen.generator.latents.transformer import SparseTransformer
from scenegen.generator.meshing.flexicubes import extract
from scenegen.generator.nn.layers import TimestepEmbedder, position_embedding
from scenegen.generator.nn.rotation import rotation_matrices
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_attention import attend_samples
from scenegen.generator.nn.sparse_blocks import SparseGroupNorm32, SparseResBlock3d, SparseSubdivideBlock3d
from scenegen.generator.nn.sparse_conv import SparseConv3d
from scenegen.generator.sampling import Step, predict_clean


class _Case(nn.Module):
    """A part of the product as a case calls it: with keyword arguments, returning a dict."""

    def __init__(self, core: nn.Module, call: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.core, self.call = core, call

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return self.call(**inputs)


def _of_rows(core: nn.Module) -> _Case:
    """A part that takes rows and their voxels and gives rows of the same voxels."""
    return _Case(core, lambda feats, coords: {"feats": core(feats, Voxels(coords))})


def _position_embedder(channels: int) -> _Case:
    return _Case(nn.Module(), lambda xyz: {"emb": position_embedding(xyz, channels)})


def _time_embedder(hidden_size: int) -> _Case:
    core = TimestepEmbedder(hidden_size)
    return _Case(core, lambda t: {"emb": core(t)})


def _down_up(factor: int) -> _Case:
    def call(feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        pooling = Voxels(coords).coarser
        down = pooling.down(feats)
        return {
            "down_feats": down,
            "down_coords": pooling.coarse.coords,
            "up_feats": pooling.up(down),
            "up_coords": pooling.fine.coords,
        }

    return _Case(nn.Module(), call)


def _subdivide() -> _Case:
    def call(feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        return {"feats": feats.repeat_interleave(8, dim=0), "coords": Voxels(coords).subdivided.coords}

    return _Case(nn.Module(), call)


def _subdivide_block(channels: int, resolution: int, out_channels: int | None = None, num_groups: int = 32) -> _Case:
    core = SparseSubdivideBlock3d(channels, out_channels, num_groups)

    def call(feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        voxels = Voxels(coords)
        return {"feats": core(feats, voxels), "coords": voxels.subdivided.coords}

    return _Case(core, call)


def _res_block(
    channels: int,
    emb_channels: int,
    out_channels: int | None = None,
    downsample: bool = False,
    upsample: bool = False,
) -> _Case:
    core = SparseResBlock3d(channels, emb_channels, out_channels, "down" if downsample else "up" if upsample else None)

    def call(feats: Tensor, coords: Tensor, emb: Tensor) -> dict[str, Tensor]:
        voxels = Voxels(coords)
        x = voxels.coarser.down(feats) if upsample else feats
        return {"feats": core(x, voxels, emb), "coords": voxels.coarser.coarse.coords if downsample else coords}

    return _Case(core, call)


def _flow_block(attn_mode: str, **args: Any) -> _Case:
    if attn_mode != "full":
        raise NotImplementedError(attn_mode)
    core = LatentFlowBlock(**args)

    def call(feats: Tensor, coords: Tensor, mod: Tensor, context: Tensor) -> dict[str, Tensor]:
        return {"feats": core(feats, Voxels(coords), mod, core.context(context))}

    return _Case(core, call)


def _windowed_attention(window_size: int, shift_window: int) -> _Case:
    def call(qkv: Tensor, coords: Tensor) -> dict[str, Tensor]:
        return {"out": Voxels(coords).windows(window_size, shift_window).attend(qkv)}

    return _Case(nn.Module(), call)


def _full_attention() -> _Case:
    def call(
        coords: Tensor, q: Tensor | None = None, kv: Tensor | None = None, qkv: Tensor | None = None
    ) -> dict[str, Tensor]:
        if qkv is not None:
            return {"out": Voxels(coords).whole_samples.attend(qkv)}
        k, v = cast(Tensor, kv).unbind(2)
        return {"out": attend_samples(cast(Tensor, q), Voxels(coords).lengths, k, v)}

    return _Case(nn.Module(), call)


def _transformer(**args: Any) -> _Case:
    if args["attn_mode"] not in ("full", "swin"):
        raise NotImplementedError(f"{args['attn_mode']}: no published model uses it")
    core = SparseTransformer(**args)
    return _Case(core, lambda feats, coords: {"feats": core.transform(feats, Voxels(coords))})


def _encoder(**args: Any) -> _Case:
    core = SLatEncoder(**args)

    def call(feats: Tensor, coords: Tensor, noise: Tensor) -> dict[str, Tensor]:
        mean, logvar = core(feats, Voxels(coords))
        return {"mean": mean, "logvar": logvar, "z": draw_latents(mean, logvar, noise)}

    return _Case(core, call)


def _flow(**args: Any) -> _Case:
    core = SLatFlowModel(**args)

    def call(feats: Tensor, coords: Tensor, t: Tensor, cond: Tensor) -> dict[str, Tensor]:
        return {"feats": core(feats, Voxels(coords), t, cond), "coords": coords}

    return _Case(core, call)


def _gaussians(**args: Any) -> _Case:
    core = SLatGaussianDecoder(**args)

    def call(feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        voxels = Voxels(coords)
        raw = core(feats, voxels)
        outputs = {"raw_feats": raw}
        parts = zip(voxels.split(raw), voxels.split(coords), core.decode(feats, voxels), strict=True)
        for i, (rows, places, gaussians) in enumerate(parts):
            parameters = core.parameters_of(rows, places)
            axes = rotation_matrices(gaussians.rotations) * gaussians.scales[:, None]
            above = torch.triu_indices(3, 3)
            outputs |= {
                f"param_xyz_{i}": parameters.positions,
                f"param_features_dc_{i}": parameters.features_dc,
                f"param_scaling_{i}": parameters.scaling,
                f"param_rotation_{i}": parameters.rotation,
                f"param_opacity_{i}": parameters.opacity,
                f"xyz_{i}": gaussians.positions,
                f"scaling_{i}": gaussians.scales,
                f"rotation_{i}": gaussians.rotations,
                f"opacity_{i}": gaussians.opacities[:, None],
                f"covariance6_{i}": (axes @ axes.mT)[:, above[0], above[1]],
            }
        return outputs

    return _Case(core, call)


def _radiance_fields(**args: Any) -> _Case:
    core = SLatRadianceFieldDecoder(**args)

    def call(feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for i, field in enumerate(core.decode(feats, Voxels(coords))):
            outputs |= {
                f"trivec_{i}": field.trivec,
                f"density_{i}": field.density,
                f"features_dc_{i}": field.features_dc,
                f"position_{i}": field.positions,
                f"depth_{i}": field.depth,
            }
        return outputs

    return _Case(core, call)


def _mesh(**args: Any) -> _Case:
    core = SLatMeshDecoder(**args)

    def call(feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        voxels = Voxels(coords)
        raw, fine = core(feats, voxels)
        outputs = {"raw_feats": raw, "raw_coords": fine.coords}
        for i, fields in enumerate(core.decode(feats, voxels)):
            mesh = extract(fields)
            outputs |= {
                f"vertices_{i}": torch.from_numpy(mesh.vertices),
                f"faces_{i}": torch.from_numpy(mesh.faces),
                f"vertex_attrs_{i}": torch.from_numpy(mesh.attributes),
            }
        return outputs

    return _Case(core, call)


def _sampling(sampler: dict[str, Any], normalization: dict[str, Any], **args: Any) -> _Case:
    core, params = SLatFlowModel(**args), sampler["params"]
    sigma_min = sampler["args"]["sigma_min"]

    def call(noise: Tensor, coords: Tensor, cond: Tensor, neg_cond: Tensor | None = None) -> dict[str, Tensor]:
        steps: list[Step] = []
        samples = sample_latents(
            core,
            Voxels(coords),
            noise,
            list(cond) if cond.ndim == 4 else [cond],
            neg_cond=None if neg_cond is None or not neg_cond.any() else neg_cond,
            steps=params["steps"],
            rescale_t=params["rescale_t"],
            guidance=params.get("cfg_strength", 0.0),
            interval=tuple(params.get("cfg_interval", (0.0, 1.0))),
            on_step=steps.append,
        )
        first = steps[0]
        return {
            "samples": samples,
            "slat": LatentNormalisation(**normalization).restore(samples),
            "first_x_t": first.x_next,
            "first_x_0": predict_clean(first.x, first.velocity, first.t, sigma_min),
        }

    return _Case(core, call)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "AbsolutePositionEmbedder": _position_embedder,
    "TimestepEmbedder": _time_embedder,
    "SparseConv3d": lambda **args: _of_rows(SparseConv3d(**args)),
    "SparseGroupNorm32": lambda **args: _of_rows(SparseGroupNorm32(**args)),
    "SparseDownUp": _down_up,
    "SparseSubdivide": _subdivide,
    "SparseSubdivideBlock3d": _subdivide_block,
    "SparseResBlock3d": _res_block,
    "ModulatedSparseTransformerCrossBlock": _flow_block,
    "WindowedAttention": _windowed_attention,
    "FullAttention": _full_attention,
    "SparseTransformerBase": _transformer,
    "SLatEncoder": _encoder,
    "SLatFlowModel": _flow,
    "SLatGaussianDecoder": _gaussians,
    "SLatRadianceFieldDecoder": _radiance_fields,
    "SLatMeshDecoder": _mesh,
    "SLatSampling": _sampling,
}
