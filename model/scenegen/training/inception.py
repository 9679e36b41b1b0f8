"""Inception v3 with the changes of the network that FID is measured by, down to its 2048 pooled features.

Architecture after Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016; parameters
have torchvision's names, which the published FID weights have too (their classifier, `fc`, is not read). The changes:
means over patches leave padding out, and the last block takes a maximum instead. Not compared with published values,
for the weights were not at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 299

Kernel = int | tuple[int, int]


class _Norm(nn.Module):
    """Batch norm with stored statistics, without the counter of a norm that is trained."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.001)


class _Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU; padding keeps the size unless there is a stride or `valid`."""

    def __init__(self, channels: int, out: int, kernel: Kernel = 1, stride: int = 1, valid: bool = False) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid or stride > 1 else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(channels, out, sides, stride, padding, bias=False)
        self.bn = _Norm(out)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = F.relu(self.bn(self.conv(x)))
        return result


class _Block(nn.Module):
    """A block of branches. convolutions: (name, channels in, channels out, kernel, stride)."""

    def __init__(self, convolutions: list[tuple[str, int, int, Kernel, int]]) -> None:
        super().__init__()
        for name, channels, out, kernel, stride in convolutions:
            self.add_module(name, _Conv(channels, out, kernel, stride))

    def chain(self, x: Tensor, *names: str) -> Tensor:
        """x through the named convolutions, one after the other."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def numbered(self, x: Tensor, branch: str, count: int) -> Tensor:
        """x through branch_1 to branch_count."""
        return self.chain(x, *(f"{branch}_{i}" for i in range(1, count + 1)))


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class _A(_Block):
    def __init__(self, c: int, pooled: int) -> None:
        super().__init__(
            [
                ("branch1x1", c, 64, 1, 1),
                ("branch5x5_1", c, 48, 1, 1),
                ("branch5x5_2", 48, 64, 5, 1),
                ("branch3x3dbl_1", c, 64, 1, 1),
                ("branch3x3dbl_2", 64, 96, 3, 1),
                ("branch3x3dbl_3", 96, 96, 3, 1),
                ("branch_pool", c, pooled, 1, 1),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        small = self.chain(x, "branch1x1"), self.numbered(x, "branch5x5", 2)
        return torch.cat([*small, self.numbered(x, "branch3x3dbl", 3), self.chain(_mean(x), "branch_pool")], 1)


class _B(_Block):
    def __init__(self) -> None:
        super().__init__(
            [
                ("branch3x3", 288, 384, 3, 2),
                ("branch3x3dbl_1", 288, 64, 1, 1),
                ("branch3x3dbl_2", 64, 96, 3, 1),
                ("branch3x3dbl_3", 96, 96, 3, 2),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.chain(x, "branch3x3"), self.numbered(x, "branch3x3dbl", 3), _halved(x)], 1)


class _C(_Block):
    def __init__(self, width: int) -> None:
        across, along = (1, 7), (7, 1)
        super().__init__(
            [
                ("branch1x1", 768, 192, 1, 1),
                ("branch7x7_1", 768, width, 1, 1),
                ("branch7x7_2", width, width, across, 1),
                ("branch7x7_3", width, 192, along, 1),
                ("branch7x7dbl_1", 768, width, 1, 1),
                ("branch7x7dbl_2", width, width, along, 1),
                ("branch7x7dbl_3", width, width, across, 1),
                ("branch7x7dbl_4", width, width, along, 1),
                ("branch7x7dbl_5", width, 192, across, 1),
                ("branch_pool", 768, 192, 1, 1),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        small = self.chain(x, "branch1x1"), self.numbered(x, "branch7x7", 3)
        return torch.cat([*small, self.numbered(x, "branch7x7dbl", 5), self.chain(_mean(x), "branch_pool")], 1)


class _D(_Block):
    def __init__(self) -> None:
        super().__init__(
            [
                ("branch3x3_1", 768, 192, 1, 1),
                ("branch3x3_2", 192, 320, 3, 2),
                ("branch7x7x3_1", 768, 192, 1, 1),
                ("branch7x7x3_2", 192, 192, (1, 7), 1),
                ("branch7x7x3_3", 192, 192, (7, 1), 1),
                ("branch7x7x3_4", 192, 192, 3, 2),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.numbered(x, "branch3x3", 2), self.numbered(x, "branch7x7x3", 4), _halved(x)], 1)


class _E(_Block):
    def __init__(self, c: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__(
            [
                ("branch1x1", c, 320, 1, 1),
                ("branch3x3_1", c, 384, 1, 1),
                ("branch3x3_2a", 384, 384, (1, 3), 1),
                ("branch3x3_2b", 384, 384, (3, 1), 1),
                ("branch3x3dbl_1", c, 448, 1, 1),
                ("branch3x3dbl_2", 448, 384, 3, 1),
                ("branch3x3dbl_3a", 384, 384, (1, 3), 1),
                ("branch3x3dbl_3b", 384, 384, (3, 1), 1),
                ("branch_pool", c, 192, 1, 1),
            ]
        )
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.numbered(x, "branch3x3", 1), self.numbered(x, "branch3x3dbl", 2)
        forked = [self.chain(single, f"branch3x3_2{fork}") for fork in "ab"]
        forked += [self.chain(double, f"branch3x3dbl_3{fork}") for fork in "ab"]
        return torch.cat([self.chain(x, "branch1x1"), *forked, self.chain(self.pool(x), "branch_pool")], 1)


class Inception(nn.Module):
    """Pictures to the features that FID compares."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, 2), _Conv(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = _Conv(32, 64, 3), _Conv(64, 80)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, valid=True)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _C(128), _C(160), _C(160), _C(192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _D(), _E(1280, _mean), _E(2048, _maximum)

    @property
    def not_read(self) -> tuple[str, ...]:
        """Beginnings of names of published tensors that are not needed here."""
        counters = (name for name, module in self.named_modules() if isinstance(module, _Norm))
        return ("fc.", "AuxLogits.", *(f"{name}.num_batches_tracked" for name in counters))

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 to features [B, 2048]."""
        x = 2 * F.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        x = _halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name, block in self.named_children():
            x = block(x) if name.startswith("Mixed") else x
        return x.mean((2, 3))
