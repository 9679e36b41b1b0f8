"""The sparse-structure flow model: noisy latents of a scene's assets to velocities and placements.

spec/structure.md section 2; the constant work of a sampling is kept in a ConditionCache (spec/cost.md section 3).
Parameter names are those of the published checkpoints. Knows nothing about schedules, guidance weights or images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scenegen.generator.nn.layers import TimestepEmbedder, modulation, position_embedding
from scenegen.generator.nn.precision import halve_weights
from scenegen.generator.structure.block import Context, FlowBlock
from scenegen.generator.structure.position_head import PositionHead
from scenegen.scene import InvalidInput


class Estimate(Protocol):
    """What a readout sees in a condition: latents [N, L, in*p^3] in ``patchify`` layout, raw placements [N, 8].

    Assets whose condition is all zeros get zero latents and the identity placement.
    """

    @property
    def latents(self) -> Tensor:
        """[N, L, in*p^3]."""

    @property
    def placements(self) -> Tensor:
        """[N, 8]."""


@dataclass(frozen=True)
class ConditionCache:
    """All that a condition contributes to every step: encode once, sample with it.

    contexts: keys and values per block. assets: rows N of all scenes together. latent_hint: [N, L, C] added to the
    latent tokens, or None. estimate: what the readout said, or None.
    """

    contexts: tuple[tuple[Context, Context | None], ...]
    assets: int
    scenes: int
    latent_hint: Tensor | None = None
    estimate: Estimate | None = None


class Prediction(NamedTuple):
    """velocity [N, out, R, R, R]; negative: that of the zero condition, or None; positions [N, 8], or None."""

    velocity: Tensor
    negative: Tensor | None
    positions: Tensor | None


def patchify(x: Tensor, patch: int) -> Tensor:
    """[N, c, R, R, R] -> tokens [N, (R/p)^3, c*p^3], row-major, channel before offset."""
    n, c, *size = x.shape
    x = x.reshape(n, c, size[0] // patch, patch, size[1] // patch, patch, size[2] // patch, patch)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(n, -1, c * patch**3)


def unpatchify(tokens: Tensor, patch: int, resolution: int) -> Tensor:
    """The inverse of ``patchify``: [N, L, c*p^3] -> [N, c, R, R, R]."""
    n, _, width = tokens.shape
    side, c = resolution // patch, width // patch**3
    x = tokens.reshape(n, side, side, side, c, patch, patch, patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(n, c, resolution, resolution, resolution)


class SparseStructureFlowModel(nn.Module):
    """Velocity of the latents and, with ``use_global``, placements of all assets of a scene.

    Asset 0 of a scene is its query. Args as in the published config files (section 0); besides:
    local_tokens: how many of the condition tokens the local cross-attention sees.
    readout: arguments of a ConditionReadout whose estimate helps small models; None for published ones.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4,
        patch_size: int = 2,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
        use_global: bool = False,
        num_register_tokens: int = 4,
        trunk_depth: int = 4,
        num_iteration: int = 4,
        pose_encoding_type: str = "absT_quatR_S",
        use_batch_encoder: bool = False,
        local_tokens: int = 1374,
        readout: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _reject_unsupported(
            {
                f"pe_mode {pe_mode!r}: only 'ape' is supported": pe_mode != "ape",
                "use_batch_encoder: its parameters are used by nothing, set it to false": use_batch_encoder,
                "share_mod together with use_global": share_mod and use_global,
                f"num_register_tokens {num_register_tokens} with use_global: at least 1 is needed": use_global
                and num_register_tokens < 1,
                f"cond_channels {cond_channels} other than model_channels {model_channels} with use_global": use_global
                and cond_channels != model_channels,
                f"resolution {resolution}: not a multiple of patch_size {patch_size}": resolution % patch_size != 0,
                "readout without use_global": readout is not None and not use_global,
            }
        )
        heads = num_heads or model_channels // num_head_channels
        self.resolution, self.patch_size = resolution, patch_size
        self.use_global, self.use_checkpoint = use_global, use_checkpoint
        self.num_iteration, self.local_tokens = num_iteration, local_tokens
        self.t_embedder = TimestepEmbedder(model_channels)
        if share_mod:
            self.adaLN_modulation = modulation(model_channels, 6)
        self.share_mod = share_mod
        side = torch.arange(resolution // patch_size)
        coords = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1).reshape(-1, 3)
        self.register_buffer("pos_emb", position_embedding(coords, model_channels))
        self.input_layer = nn.Linear(in_channels * patch_size**3, model_channels)
        self.blocks = nn.ModuleList(
            FlowBlock(
                model_channels,
                cond_channels,
                heads,
                mlp_ratio,
                qk_rms_norm=qk_rms_norm,
                qk_rms_norm_cross=qk_rms_norm_cross,
                share_mod=share_mod,
                use_global=use_global,
            )
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(model_channels, out_channels * patch_size**3)
        if use_global:
            self.position_token = nn.Parameter(torch.randn(2, 1, model_channels))
            self.register_token = nn.Parameter(torch.randn(2, num_register_tokens, model_channels))
            self.position_head = PositionHead(
                model_channels, trunk_depth, pose_encoding_type, heads, mlp_ratio, use_fp16
            )
        self.readout: nn.Module | None = None
        if readout is not None:
            from scenegen.generator.structure.readout import ConditionReadout

            self.readout = ConditionReadout(**readout)
            # Zero, so that training starts from the readout's own estimate.
            self.readout_in = nn.Linear(in_channels * patch_size**3, model_channels, bias=False)
            nn.init.zeros_(self.readout_in.weight)
            for parameter in self.position_head.pose_branch[2].parameters():
                nn.init.zeros_(parameter)
        if use_fp16:
            halve_weights(self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the blocks."""
        return next(self.flow_blocks[0].mlp.parameters()).dtype

    @property
    def flow_blocks(self) -> list[FlowBlock]:
        """The blocks, as what they are."""
        return cast("list[FlowBlock]", list(self.blocks))

    def encode_condition(self, cond: Tensor, *, scenes: int = 1) -> ConditionCache:
        """All that the blocks need of condition tokens [S*N, T, cond_channels] of S scenes of N assets each."""
        estimate: Estimate | None = None
        latent_hint = None
        if self.readout is not None:
            estimate = self.readout(cond, scenes=scenes)
            latent_hint = self.readout_in(estimate.latents)
        tokens = cond.to(self.dtype)
        local = tokens[:, : self.local_tokens] if self.use_global else tokens
        contexts = tuple(block.contexts(local, tokens) for block in self.flow_blocks)
        return ConditionCache(contexts, len(cond), scenes, latent_hint, estimate)

    def velocity(
        self, x: Tensor, t: Tensor, cache: ConditionCache, *, guided: bool = False, positions: bool = True
    ) -> Prediction:
        """One evaluation, in one batch with the negative pass when ``guided``.

        x: float32 [S*N, in, R, R, R]. t: 1000 x flow time, [1] for all assets (cheaper, and needed when ``guided``) or
        [S*N]. The position head runs only when ``positions`` and only on the conditional pass. InvalidInput when x and
        the condition differ, or times and ``guided``.
        """
        if len(x) != cache.assets or len(x) % cache.scenes:
            raise InvalidInput(
                f"{len(x)} assets in {cache.scenes} scenes but {cache.assets} conditions: one condition per asset and "
                "equally many assets in each scene are needed"
            )
        if guided and len(t) != 1:
            raise InvalidInput(f"{len(t)} flow times: a guided evaluation takes one for all assets")
        branches = 2 if guided else 1
        h = self.input_layer(patchify(x, self.patch_size)) + self.pos_emb
        if cache.latent_hint is not None:
            # The negative pass has no hint, and so its own tokens from the beginning.
            h = torch.cat([h + cache.latent_hint, h][:branches])
        special = self._special_tokens(branches * len(x), len(x) // cache.scenes) if self.use_global else None
        special, h = self._run_blocks(special, h, t, cache, branches)
        v = self.out_layer(F.layer_norm(h, h.shape[-1:]))
        v = unpatchify(v, self.patch_size, self.resolution)
        placements = None
        if positions and special is not None:
            start = None if cache.estimate is None else cache.estimate.placements
            placements = self.position_head(special[: len(x), :1], self.num_iteration, start=start, scenes=cache.scenes)
        return Prediction(v[: len(x)], v[len(x) :] if guided else None, placements)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, *, scenes: int = 1) -> Tensor | tuple[Tensor, Tensor]:
        """Evaluate once, keeping nothing: velocity [S*N, out, R, R, R]; with ``use_global`` also positions [S*N, 8].

        x: float32 [S*N, in, R, R, R]. t: [S*N], 1000 x flow time. cond: [S*N, T, cond_channels].
        """
        prediction = self.velocity(x, t, self.encode_condition(cond, scenes=scenes))
        if prediction.positions is None:
            return prediction.velocity
        return prediction.velocity, prediction.positions

    def _special_tokens(self, rows: int, assets: int) -> Tensor:
        """[rows, k, C]: position and register tokens, the query's for the first asset of each scene."""
        tokens = torch.cat([self.position_token, self.register_token], dim=1)
        is_other = (torch.arange(rows, device=tokens.device) % assets != 0).long()
        return tokens[is_other]

    def _run_blocks(
        self, special: Tensor | None, h: Tensor, t: Tensor, cache: ConditionCache, branches: int
    ) -> tuple[Tensor | None, Tensor]:
        """All blocks in their own precision; tokens come back in that of ``h``."""
        emb = self.t_embedder(t)
        if self.share_mod:
            emb = self.adaLN_modulation(emb)
        outside, inside = h.dtype, self.dtype
        emb, h = emb.to(inside), h.to(inside)
        special = None if special is None else special.to(inside)
        for block, contexts in zip(self.flow_blocks, cache.contexts, strict=True):
            arguments = (special, h, emb, contexts, cache.scenes, branches)
            if self.use_checkpoint and torch.is_grad_enabled():
                special, h = checkpoint(block, *arguments, use_reentrant=False)
            else:
                special, h = block(*arguments)
        return (None if special is None else special.to(outside)), h.to(outside)


def _reject_unsupported(reasons: dict[str, bool]) -> None:
    for reason, applies in reasons.items():
        if applies:
            raise InvalidInput(f"structure flow model config: {reason} is not supported")
