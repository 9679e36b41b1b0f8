"""Builders for the conformance cases of training: targets and composite loss as released."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scenegen.generator.sampling import SIGMA_MIN, predict_clean
from scenegen.generator.structure.vae import SparseStructureDecoder
from scenegen.training.released import PlacementWeight, ReleasedLoss, relative_placements, world_points

Config = dict[str, Any]


class _TrainSample(nn.Module):
    def forward(self, translation: Tensor, euler_xyz_deg: Tensor, scale: Tensor, order: Tensor) -> dict[str, Tensor]:
        rows = relative_placements(translation.numpy(), euler_xyz_deg.numpy(), scale.numpy(), order.numpy())
        return {"positions": torch.from_numpy(rows)}


class _TrainLosses(nn.Module):
    """Two steps that differ in the predicted placements alone."""

    def __init__(self, decoder: SparseStructureDecoder | None) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, x_0: Tensor, positions: Tensor, noise: Tensor, t: Tensor, pred_v: Tensor, **rest: Tensor
    ) -> dict[str, Tensor]:
        time = t[:, None, None, None, None]
        x_t = (1 - time) * x_0 + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise
        clean = predict_clean(x_t, pred_v, time)
        outputs = {"x_t": x_t, "model_t": 1000 * t, "x_0_pred": clean}
        if self.decoder is not None:
            points = world_points(self.decoder, clean, positions)
            outputs["world_points"] = torch.cat(points)
            outputs["num_points"] = torch.tensor([len(p) for p in points])
        loss = ReleasedLoss(self.decoder, PlacementWeight())
        for step in range(2):
            terms = loss(pred_v, rest[f"pred_positions_step{step}"], x_0, positions, noise, t)
            loss.weight.note(float(terms.balance))
            names = {
                "mse": terms.flow,
                "loss": terms.loss,
                "trans_loss": terms.translation,
                "rot_loss": terms.rotation,
                "scale_loss": terms.scale,
                "pos_loss": terms.placement,
                "pos_weight": terms.weight,
                "collision_ratio": terms.collision_ratio,
            }
            outputs |= {f"step{step}.{name}": value for name, value in names.items()}
        return outputs


def _train_sample(query: int, max_assets: int) -> nn.Module:
    return _TrainSample()  # a case's order starts with its query and is truncated already


def _train_losses(decoder: Config | None, **published: Any) -> nn.Module:
    return _TrainLosses(None if decoder is None else SparseStructureDecoder(**decoder["args"]))


BUILDERS = {"TrainSample": _train_sample, "TrainLosses": _train_losses}
