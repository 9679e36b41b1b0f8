"""The contract between the robot side and the GPU side: plain dataclasses of numpy arrays.

Knows nothing about torch, ROS, files or sockets. Frames and units follow REP-103: metres, seconds,
quaternions wxyz, cameras x right, y down, z forward, transforms named ``T_parent_child``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]
Detail = Literal["coarse", "textured"]
"""How finished an asset's mesh is: the surface of its sparse structure in one colour, or decoded and textured."""
DETAILS: tuple[Detail, ...] = get_args(Detail)

ROTATION_YUP_ZUP: Floats = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""[3, 3] Takes z-up coordinates to y-up ones: (x, y, z) -> (x, z, -y), as glTF and the network want them."""


class InvalidInput(ValueError):
    """Input that cannot be used. The message names the thing, the limit and what to do."""


class Cancelled(Exception):
    """The caller asked to stop; nothing was produced."""


@dataclass(frozen=True)
class View:
    """What one camera saw at one moment.

    image: uint8 [H, W, 3] RGB.
    masks: int32 [H, W] instance ids, 0 is background.
    depth_m: float32 [H, W] along the optical axis, in metres; 0 or NaN is no reading. None without depth.
    intrinsics: float64 [3, 3] of the rectified image, in pixels; the centre of pixel (u, v) is (u, v). None if unknown.
    T_world_camera: float64 [4, 4], optical frame in the fixed frame, metres. None if unknown.
    stamp_ns: capture time.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.int32]
    depth_m: NDArray[np.float32] | None = None
    intrinsics: Floats | None = None
    T_world_camera: Floats | None = None
    stamp_ns: int = 0

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise InvalidInput(
                f"image is {self.image.dtype} {list(self.image.shape)}, expected uint8 [H, W, 3] RGB: convert it first"
            )
        size = self.image.shape[:2]
        for name in ("masks", "depth_m"):
            plane = getattr(self, name)
            if plane is not None and plane.shape != size:
                raise InvalidInput(
                    f"{name} is {list(plane.shape)} but its image is {list(size)}: both must come from the same "
                    "rectified camera at the same resolution"
                )
        for name, shape in (("intrinsics", (3, 3)), ("T_world_camera", (4, 4))):
            matrix = getattr(self, name)
            if matrix is not None and (matrix.shape != shape or not np.isfinite(matrix).all()):
                raise InvalidInput(f"{name} must be a finite {shape[0]}x{shape[1]} matrix, got {matrix!r}")

    @property
    def instance_ids(self) -> tuple[int, ...]:
        """Ids present in the masks, ascending, without the background."""
        flat = self.masks.ravel()
        # Where the id changes along the pixels: few places, and sorting all pixels takes 20 times as long.
        ids = np.unique(np.concatenate([flat[:1], flat[1:][flat[1:] != flat[:-1]]]))
        return tuple(int(i) for i in ids[ids > 0])


@dataclass(frozen=True)
class Asset:
    """One generated object in its canonical unit box: z-up mesh in [-0.5, 0.5]^3 (DESIGN section 5).

    id is the instance id of the views' masks.
    """

    id: int
    label: str
    mesh: trimesh.Trimesh
    detail: Detail = "coarse"


@dataclass(frozen=True)
class Placement:
    """An asset relative to the query asset, in the query's y-up frame, in units of the query's size.

    p_query = R(rotation_wxyz) (scale * p_asset) + translation (spec/structure.md section 7).
    translation: float64 [3]. rotation_wxyz: float64 [4], need not be normalised. scale: size over the query's size.
    """

    translation: Floats
    rotation_wxyz: Floats
    scale: float

    @staticmethod
    def between(T_query: Floats, T_asset: Floats, query_size: float, size: float) -> Placement:
        """Of two rigid poses [4, 4] in one z-up frame, with the sizes of their unit boxes: the inverse of

        Scene.T_query_asset, t = Rq^T (tau - tau_q) / size_q and R relative to Rq (spec/structure.md section 8).
        """
        R_query = T_query[:3, :3]
        translation = R_query.T @ (T_asset[:3, 3] - T_query[:3, 3]) / query_size
        rotation = ROTATION_YUP_ZUP @ (R_query.T @ T_asset[:3, :3]) @ ROTATION_YUP_ZUP.T
        wxyz = np.asarray(Rotation.from_matrix(rotation).as_quat(scalar_first=True))
        return Placement(ROTATION_YUP_ZUP @ translation, wxyz, float(size / query_size))

    @staticmethod
    def identity() -> Placement:
        """The query asset's own placement."""
        return Placement(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]), 1.0)


@dataclass(frozen=True)
class Scene:
    """Assets in the caller's order (ascending instance id) with one placement each.

    query: index of the query asset, whose placement is the identity.
    seconds: wall time per stage.
    """

    assets: tuple[Asset, ...]
    placements: tuple[Placement, ...]
    query: int
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.assets) != len(self.placements) or not 0 <= self.query < len(self.assets):
            raise InvalidInput(
                f"{len(self.assets)} assets, {len(self.placements)} placements, query {self.query}: "
                "one placement per asset and a query among them are needed"
            )

    def T_query_asset(self, i: int) -> Floats:
        """Asset i in the query's frame, both z-up: float64 [4, 4], scale included. ValueError on a zero quaternion."""
        placement = self.placements[i]
        rotation = Rotation.from_quat(placement.rotation_wxyz, scalar_first=True).as_matrix()
        T = np.eye(4)
        T[:3, :3] = ROTATION_YUP_ZUP.T @ (placement.scale * rotation) @ ROTATION_YUP_ZUP
        T[:3, 3] = ROTATION_YUP_ZUP.T @ placement.translation
        return T


@dataclass(frozen=True)
class Progress:
    """Where a generation stands: the stage at work, the share of the whole done (0..1), an asset just finished.

    scene: said once, and only where textured assets are still to come: the whole scene with its coarse assets. Each
    textured asset that follows replaces the coarse one of its id; placements stay.
    """

    stage: str
    fraction: float
    asset: Asset | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class PlacedObject:
    """An asset placed in the robot's frame.

    T_world_object: float64 [4, 4], rigid, origin at the centre of the asset's unit box, axes of the asset (z-up).
    size_m: float64 [3], extents of the mesh along its own axes. The asset is drawn at scale_m = metres per asset unit.
    covariance: float64 [6, 6] of (x, y, z, rotation about x, y, z) in the world frame, m^2 and rad^2.
    confidence: 0..1. residual_m: median distance of measured points to the placed surface, NaN without depth.
    metric: False when nothing gave a scale; lengths are then in units of the query asset.
    """

    id: int
    label: str
    asset: Asset
    T_world_object: Floats
    scale_m: float
    size_m: Floats
    covariance: Floats
    confidence: float
    residual_m: float
    metric: bool

    @property
    def T_world_asset(self) -> Floats:
        """Asset units to world, scale included: float64 [4, 4]."""
        return self.T_world_object @ np.diag([*[self.scale_m] * 3, 1.0])

    def with_asset(self, asset: Asset) -> PlacedObject:
        """The object where it stands, with another mesh of the same unit box (textured instead of coarse)."""
        size_m = np.asarray(asset.mesh.extents * self.scale_m, dtype=np.float64)
        return replace(self, asset=asset, size_m=size_m)
