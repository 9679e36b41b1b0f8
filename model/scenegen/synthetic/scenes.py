"""Random scenes: objects upright on a floor or a table-top, and camera paths around them.

World frame: z up, metres, the objects stand on z = 0 about the origin. Instance id of objects[i] is i + 1. Knows
where things stand; drawing them is rendering.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.render import Camera, Light, look_at
from scenegen.scene import Asset, InvalidInput, Placement, Scene, View
from scenegen.synthetic.ground import Ground, make_ground
from scenegen.synthetic.objects import ProceduralObject, make_object
from scenegen.synthetic.parts import Floats

SIZE_RANGE_M = (0.05, 0.40)


@dataclass(frozen=True, eq=False)
class SyntheticScene:
    """Objects with their exact places.

    T_world_object: float64 [n, 4, 4], rigid and upright, origin at the centre of the unit box.
    size_m: float64 [n], metres per asset unit (the object's longest extent).
    """

    objects: tuple[ProceduralObject, ...]
    T_world_object: Floats
    size_m: Floats
    ground: Ground
    light: Light
    seed: int

    def corners_m(self) -> Floats:
        """float64 [n, 8, 3], corners of every object's oriented bounding box in the world."""
        unit = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij")).reshape(3, 8).T
        local = np.stack([unit * o.extents * size for o, size in zip(self.objects, self.size_m, strict=True)])
        return np.einsum("nij,nkj->nki", self.T_world_object[:, :3, :3], local) + self.T_world_object[:, None, :3, 3]


def make_scene(seed: int, count: tuple[int, int] = (2, 5), families: Sequence[str] | None = None) -> SyntheticScene:
    """A random scene of count[0]..count[1] objects (of these families, or of all). The same seed gives the same scene.

    Objects are 5 to 40 cm long, stand apart by at least a centimetre and close enough to hide one another in part.
    """
    if not 1 <= count[0] <= count[1]:
        raise InvalidInput(f"count {count} is no range of object numbers: give (lowest, highest) with 1 <= lowest")
    rng = np.random.default_rng(seed)
    number = int(rng.integers(count[0], count[1] + 1))
    objects = [make_object(rng, None if families is None else str(rng.choice(list(families)))) for _ in range(number)]
    typical = np.exp(rng.uniform(np.log(0.11), np.log(0.34)))
    size_m = np.clip(typical * rng.uniform(0.5, 1.25, number), *SIZE_RANGE_M)
    yaw = rng.uniform(-np.pi, np.pi, number)
    gap_m = max(0.01, typical * rng.uniform(0.03, 0.25))
    spots = _spread(rng, [o.extents[:2] * s / 2 for o, s in zip(objects, size_m, strict=True)], yaw, gap_m)
    T = np.tile(np.eye(4), (number, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(yaw[:, None] * [0.0, 0.0, 1.0]).as_matrix()
    T[:, :2, 3] = spots
    T[:, 2, 3] = [o.extents[2] * s / 2 for o, s in zip(objects, size_m, strict=True)]
    reach = float((np.linalg.norm(spots, axis=1) + size_m * 0.71).max())
    azimuth, height = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(35.0, 75.0))
    towards = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    light = Light(towards, ambient=rng.uniform(0.45, 0.7), direct=rng.uniform(0.35, 0.65))
    return SyntheticScene(tuple(objects), T, size_m, make_ground(rng, reach), light, seed)


def _spread(rng: np.random.Generator, halves: list[Floats], yaw: Floats, gap_m: float) -> Floats:
    """Centres float64 [n, 2] of upright boxes (half sizes [2], yaw) at least gap_m apart, about the origin."""
    placed: list[Floats] = []
    for i, half in enumerate(halves):
        radius = 0.0
        step = 0.15 * max(float(h.max()) for h in halves)
        while True:
            angle = rng.uniform(-np.pi, np.pi)
            spot = radius * np.array([np.cos(angle), np.sin(angle)])
            if all(_apart(spot - placed[j], half + gap_m / 2, yaw[i], halves[j] + gap_m / 2, yaw[j]) for j in range(i)):
                break
            radius += step * rng.uniform(0.2, 1.0)
        placed.append(spot)
    spots = np.array(placed)
    return spots - (spots.min(0) + spots.max(0)) / 2


def _apart(between: Floats, half_a: Floats, yaw_a: float, half_b: Floats, yaw_b: float) -> bool:
    """Whether two turned rectangles, between [2] from b's centre to a's, are separated by an axis of either."""
    axes_a = np.array([[np.cos(yaw_a), np.sin(yaw_a)], [-np.sin(yaw_a), np.cos(yaw_a)]])
    axes_b = np.array([[np.cos(yaw_b), np.sin(yaw_b)], [-np.sin(yaw_b), np.cos(yaw_b)]])
    axes = np.concatenate([axes_a, axes_b])
    reach = np.abs(axes @ axes_a.T) @ half_a + np.abs(axes @ axes_b.T) @ half_b
    return bool((np.abs(axes @ between) > reach).any())


def make_camera(rng: np.random.Generator, width: int = 320, height: int = 240) -> Camera:
    """A camera for training: focal length 0.94 of the image width give or take a tenth, centre off by up to 2%."""
    focal = width * 600.0 / 640.0 * rng.uniform(0.9, 1.1)
    camera = Camera.pinhole(width, height, focal)
    camera.intrinsics[:2, 2] += rng.uniform(-0.02, 0.02, 2) * [width, height]
    return camera


def camera_path(
    scene: SyntheticScene, n: int, seed: int = 0, camera: Camera | None = None, arc: float = 2 * np.pi
) -> Floats:
    """T_world_camera float64 [n, 4, 4] of n cameras on an orbit (over an arc in radians) that sees every object whole.

    Elevation stays between 20 and 55 degrees and roll is zero. camera: whose frame the objects must fit, the default
    640 x 480 without.
    """
    camera = camera or Camera.pinhole()
    rng = np.random.default_rng([seed, scene.seed])
    corners = scene.corners_m().reshape(-1, 3)
    middle, swing, phase = rng.uniform(27.0, 48.0), rng.uniform(0.0, 7.0), rng.uniform(-np.pi, np.pi)
    azimuth = rng.uniform(-np.pi, np.pi) + np.arange(n) * (arc / n)
    elevation = np.deg2rad(middle + swing * np.sin(azimuth + phase))
    back = np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=1
    )
    poses = np.stack([look_at(direction, np.zeros(3)) for direction in back])
    nearest = np.array([_framing(corners, T[:3, :3], camera)[2] for T in poses])
    further = float(np.linalg.norm(np.ptp(corners, axis=0))) * rng.uniform(0.0, 0.35)
    aside = rng.uniform(0.2, 0.8, 2)
    for T in poses:
        T[:3, 3] = T[:3, :3] @ _framing(corners, T[:3, :3], camera, float(nearest.min()) - further, aside)
    return poses


def _framing(
    points: Floats, R_world_camera: Floats, camera: Camera, z: float | None = None, aside: Floats | None = None
) -> Floats:
    """Where a camera of this rotation must be, float64 [3] along its own axes, to keep points [n, 3] 4% off its frame.

    z: its place along its optical axis, as close as possible without. aside: 0..1 for either image axis, where in the
    room left the points end up; the middle without.
    """
    seen = points @ R_world_camera
    focal, middle = np.diag(camera.intrinsics)[:2], camera.intrinsics[:2, 2]
    size = np.array([camera.width, camera.height])
    low, high = (0.04 * size - middle) / focal, (0.96 * size - 1 - middle) / focal
    # a point is inside when low (p_z - z) <= p_xy - xy <= high (p_z - z)
    least, most = (seen[:, :2] - high * seen[:, 2:]).max(0), (seen[:, :2] - low * seen[:, 2:]).min(0)
    if z is None:
        z = float(((most - least) / (high - low)).min())
    least, most = least + high * z, most + low * z
    share = np.full(2, 0.5) if aside is None else aside
    return np.append(least + share * (most - least), z)


def true_scene(scene: SyntheticScene, view: View, ids: Sequence[int] | None = None) -> Scene:
    """What a perfect generator would answer to a view: true meshes and placements, ids ascending.

    The query is the one with the largest mask in the view. Placements as Placement.between.
    ids: instance ids, those in the view without. InvalidInput when an id is not in the scene or none is left.
    """
    chosen = sorted(set(view.instance_ids if ids is None else ids))
    if not chosen or not all(1 <= i <= len(scene.objects) for i in chosen):
        raise InvalidInput(f"ids {chosen} are not all among this scene's 1..{len(scene.objects)}: choose from those")
    areas = [np.count_nonzero(view.masks == i) for i in chosen]
    query = int(np.argmax(areas))
    q = chosen[query] - 1
    assets, placements = [], []
    for i in chosen:
        made, T = scene.objects[i - 1], scene.T_world_object[i - 1]
        assets.append(Asset(i, made.family, made.mesh()))
        placements.append(Placement.between(scene.T_world_object[q], T, scene.size_m[q], scene.size_m[i - 1]))
    return Scene(tuple(assets), tuple(placements), query)
