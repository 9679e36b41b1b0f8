"""Where the rows of a sparse batch stand, and what follows from it: neighbours, parents, children, windows.

spec/latents.md section 1. Features are plain tensors with one row per voxel; a `Voxels` goes beside them. All it
derives is computed at first use and kept, so that every layer and every sampling step shares it. Knows nothing about
features or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor

from scenegen.generator.nn.layers import position_embedding
from scenegen.generator.nn.sparse_attention import Groups, Samples, Windows
from scenegen.scene import InvalidInput

MAX_COORDINATE = 1023
OFFSETS = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3)
"""The 27 offsets of a 3 x 3 x 3 kernel, in the order of its weights; number 26 - k is the opposite of number k."""
CENTRE = 13
CHILDREN = torch.cartesian_prod(*[torch.tensor([0, 1])] * 3)
"""Where the 8 children of a voxel stand in it, in their order: z runs fastest."""

_Derived = TypeVar("_Derived")


@dataclass(frozen=True)
class Pairs:
    """Rows of the output, and the rows of the input that meet them at one offset, int64 [P] each.

    None stands for all rows in order. Where several rows meet several at once, they stand one after another.
    """

    out: Tensor | None
    into: Tensor | None


def touching_children(k: int) -> tuple[Tensor, Tensor]:
    """Which children of a voxel's neighbour at offset k, and which of its own, have one another for neighbours.

    Places in their voxels, int64 [n, 3] each, in the order of the children; each of the one touches each of the other.
    """
    sides = {-1: (1, 0), 0: (-1, -1), 1: (0, 1)}
    wanted = torch.tensor([sides[step] for step in OFFSETS[k].tolist()])
    theirs, own = (CHILDREN[((side == CHILDREN) | (side < 0)).all(1)] for side in wanted.T)
    return theirs, own


class Voxels:
    """The voxels of a sparse batch of samples (assets): row n of every feature tensor belongs to row n here.

    coords: int [N, 4], columns (sample, x, y, z), samples ascending, no voxel twice. samples: how many there are; the
    highest index + 1 unless given. Raises InvalidInput for coordinates that are not so.
    """

    def __init__(self, coords: Tensor, samples: int | None = None) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise InvalidInput(f"voxel coordinates are {coords.dtype} {list(coords.shape)}, expected int [N, 4]")
        if len(coords) and not (0 <= int(coords.min()) and int(coords[:, 1:].max()) <= MAX_COORDINATE):
            raise InvalidInput(
                f"voxel coordinates reach from {int(coords.min())} to {int(coords[:, 1:].max())}, expected 0 to "
                f"{MAX_COORDINATE}"
            )
        sample = coords[:, 0].long()
        if (sample[1:] < sample[:-1]).any():
            raise InvalidInput("voxels of different samples are mixed: sort the rows by sample first")
        counts = torch.bincount(sample, minlength=samples or 0).tolist()
        if samples is not None and len(counts) != samples:
            raise InvalidInput(f"voxels name {len(counts)} samples, expected {samples}")
        self.coords, self.sample, self.lengths = coords, sample, tuple(counts)
        self._kept: dict[Hashable, object] = {}
        self._parents: Voxels | None = None

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def samples(self) -> int:
        """How many samples there are, empty ones included."""
        return len(self.lengths)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows [N, ...] of each sample."""
        return x.split(self.lengths)

    def rows(self, values: Tensor) -> Tensor:
        """One value per sample [B, C] as one per voxel [N, C]; a single one [1, C] as it is, to be broadcast."""
        return values if len(values) == 1 else values.index_select(0, self.sample)

    def only(self, sample: int) -> Voxels:
        """One sample alone, as sample 0."""
        coords = self.split(self.coords)[sample].clone()
        coords[:, 0] = 0
        return Voxels(coords, 1)

    @cached_property
    def pairs(self) -> tuple[Pairs, ...]:
        """For each of the 27 offsets: voxels of which a neighbour is there, and that neighbour."""
        columns = [self._neighbours(k) for k in range(CENTRE)]
        half = []
        for column in columns:
            out = (column >= 0).nonzero()[:, 0]
            half.append(Pairs(out, column[out]))
        return (*half, Pairs(None, None), *(Pairs(p.into, p.out) for p in reversed(half)))

    @cached_property
    def pairs_of_children(self) -> tuple[Pairs, ...]:
        """For each of the 27 offsets: children of the voxels, and the neighbour's children next to them."""
        return tuple(self._of_children(k, into_children=True) for k in range(27))

    @cached_property
    def pairs_to_children(self) -> tuple[Pairs, ...]:
        """The same, with the neighbour itself in place of its children."""
        return tuple(self._of_children(k, into_children=False) for k in range(27))

    def _of_children(self, k: int, into_children: bool) -> Pairs:
        pairs, (theirs, own) = self.pairs[k], touching_children(k)
        if pairs.out is None or pairs.into is None:
            return pairs
        numbers = torch.tensor([4, 2, 1])
        out, into = (
            (rows[:, None] * 8 + (children @ numbers).to(rows.device)).flatten()
            for rows, children in ((pairs.out, own), (pairs.into, theirs))
        )
        return Pairs(out, into if into_children else pairs.into)

    @cached_property
    def neighbour_table(self) -> Tensor:
        """Row of each voxel's neighbour at each of the 27 offsets, -1 where there is none: int64 [N, 27]."""
        table = torch.full((len(self), 27), -1, device=self.coords.device)
        for k, pairs in enumerate(self.pairs):
            if pairs.out is None or pairs.into is None:
                table[:, k] = torch.arange(len(self), device=self.coords.device)
            else:
                table[pairs.out, k] = pairs.into
        return table

    def _neighbours(self, k: int) -> Tensor:
        """Row of each voxel's neighbour at offset k, or -1: int64 [N]."""
        if self._parents is not None:
            # Brothers stand in a fixed order behind their parent, so its neighbours tell theirs without a search.
            position = CHILDREN + OFFSETS[k]
            parent_offset = ((torch.div(position, 2, rounding_mode="floor") + 1) @ torch.tensor([9, 3, 1])).tolist()
            child = ((position % 2) @ torch.tensor([4, 2, 1])).to(self.coords.device)
            parent = self._parents.neighbour_table[:, parent_offset]
            return torch.where(parent >= 0, parent * 8 + child, -1).flatten()
        keys, order, side = self._sorted_keys
        x, y, z = OFFSETS[k].tolist()
        wanted = keys + ((x * side + y) * side + z)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        neighbours = torch.empty_like(order)
        neighbours[order] = torch.where(keys[place] == wanted, order[place], -1)
        return neighbours

    @cached_property
    def _sorted_keys(self) -> tuple[Tensor, Tensor, int]:
        """Sorted linear indices in a grid with an empty border, the rows they are of, and the grid's side."""
        side = int(self.coords[:, 1:].max()) + 3 if len(self) else 3
        keys, order = _linear(self.coords.long() + self.coords.new_tensor([0, 1, 1, 1]), side).sort()
        return keys, order, side

    @cached_property
    def coarser(self) -> Pooling:
        """The parents of all voxels, at half the resolution, and the way back."""
        coords = torch.div(self.coords.long(), self.coords.new_tensor([1, 2, 2, 2]), rounding_mode="floor")
        side = MAX_COORDINATE + 1
        keys, parent, counts = torch.unique(_linear(coords, side), return_inverse=True, return_counts=True)
        columns = [keys // side**3, keys // side**2 % side, keys // side % side, keys % side]
        coarse = Voxels(torch.stack(columns, dim=1).to(self.coords.dtype), self.samples)
        return Pooling(coarse, self, parent, counts)

    @cached_property
    def subdivided(self) -> Voxels:
        """Eight children of every voxel, at twice the resolution, brothers one after another."""
        offsets = torch.nn.functional.pad(CHILDREN, (1, 0)).to(self.coords)
        coords = self.coords * self.coords.new_tensor([1, 2, 2, 2])
        children = Voxels((coords[:, None] + offsets).flatten(0, 1), self.samples)
        children._parents = self
        return children

    @cached_property
    def whole_samples(self) -> Groups:
        """The groups of full attention."""
        return Samples(self.lengths)

    def windows(self, size: int, shift: int) -> Groups:
        """The groups of windowed attention: windows of ``size``^3 voxels, moved by -shift along each axis."""

        def divide() -> Windows:
            windows = torch.div(self.coords[:, 1:].long() + shift, size, rounding_mode="floor")
            return Windows(_linear(torch.cat([self.sample[:, None], windows], dim=1), MAX_COORDINATE + shift + 1))

        return self._once(("windows", size, shift), divide)

    def position_embedding(self, channels: int) -> Tensor:
        """Sinusoids of the coordinates: float32 [N, channels]."""
        return self._once(("positions", channels), lambda: position_embedding(self.coords[:, 1:], channels))

    def _once(self, key: Hashable, derive: Callable[[], _Derived]) -> _Derived:
        if key not in self._kept:
            self._kept[key] = derive()
        return cast(_Derived, self._kept[key])


class Pooling:
    """Between voxels and their parents, down and up again."""

    def __init__(self, coarse: Voxels, fine: Voxels, parent: Tensor, counts: Tensor) -> None:
        self.coarse, self.fine = coarse, fine
        self.parent = parent
        self._divisor = (counts + 1)[:, None]

    def down(self, x: Tensor) -> Tensor:
        """Features of parents [M, C]: the sum over their children [N, C], divided by the number of children + 1.

        The + 1 is a slip of the published code that its weights are trained with (spec/latents.md section 1.2).
        """
        total = x.new_zeros(len(self.coarse), x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        return (total.index_add(0, self.parent, x.to(total.dtype)) / self._divisor).to(x.dtype)

    def up(self, x: Tensor) -> Tensor:
        """Features of parents [M, C] handed to each of their children: [N, C]."""
        return x.index_select(0, self.parent)

    @cached_property
    def pairs(self) -> tuple[Pairs, ...]:
        """The fine voxels' neighbours, as rows of the coarse features that ``up`` would copy."""
        return tuple(Pairs(p.out, self.parent if p.into is None else self.parent[p.into]) for p in self.fine.pairs)


def _linear(coords: Tensor, side: int) -> Tensor:
    """Columns (sample, x, y, z) as one int64 that sorts alike."""
    return ((coords[:, 0] * side + coords[:, 1]) * side + coords[:, 2]) * side + coords[:, 3]
