"""Rays through masks: what they say, when they are unknown, and what a readout makes of them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from scenegen.generator.preprocessing import condition_images
from scenegen.generator.rays import ANGLES, Rays, mask_rays, mirrored_rays
from scenegen.generator.structure.readout import ConditionReadout, box_of_rays, lifted, ray_features
from scenegen.render import look_at
from scenegen.scene import Floats, View
from scenegen.synthetic import camera_path, make_camera, make_scene, render
from scenegen.training.encoders import varied_rays
from scenegen.training.samples import Arrays, scene_sample


def a_view(T_world_camera: Floats | None, intrinsics: Floats | None = None) -> View:
    """100 x 80 pixels, focal length 100, and object 7 in the middle: columns 40 to 59, rows 30 to 49."""
    masks = np.zeros((80, 100), dtype=np.int32)
    masks[30:50, 40:60] = 7
    middle = np.array([[100.0, 0, 49.5], [0, 100.0, 39.5], [0, 0, 1]])
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    return View(image, masks, None, middle if intrinsics is None else intrinsics, T_world_camera)


def rays_of(view: View, ids: Sequence[int]) -> Rays:
    return mask_rays(view, [view.masks == i for i in ids])


def looking_down(degrees: float) -> Floats:
    """T_world_camera of a camera one metre up that looks along +x of the world, so much below the horizon."""
    ahead = np.array([math.cos(math.radians(degrees)), 0, -math.sin(math.radians(degrees))])
    return look_at(np.array([0.0, 0, 1]), np.array([0.0, 0, 1]) + ahead)


def made_sample(seed: int) -> tuple[View, Arrays]:
    scene = make_scene(seed)
    camera = make_camera(np.random.default_rng((seed, 1)))
    view = render(scene, camera, camera_path(scene, 1, seed, camera)[0])
    sample = scene_sample(scene, view, image_size=28, geometry_size=28, resolution=8)
    assert sample is not None
    return view, sample[1]


def test_rays_of_a_mask_in_the_middle_are_those_of_the_camera() -> None:
    (rays,) = rays_of(a_view(looking_down(40)), [7])
    known, azimuth, elevation, left, right, top, bottom = rays
    assert known == 1 and azimuth == pytest.approx(0, abs=1e-6)
    assert math.degrees(elevation) == pytest.approx(-40, abs=1e-4)
    half = math.degrees(math.atan(0.1))  # ten pixels at a focal length of a hundred
    assert math.degrees(top) == pytest.approx(-40 + half, abs=1e-4)
    assert math.degrees(bottom) == pytest.approx(-40 - half, abs=1e-4)
    # to the side of a ray that points down, azimuths open wider than the picture does
    assert right == -left == pytest.approx(math.atan(0.1 / math.cos(math.radians(40))), abs=1e-6)


@pytest.mark.parametrize(
    "view",
    [
        dataclasses.replace(a_view(looking_down(40)), intrinsics=None),
        a_view(None),
        a_view(np.eye(4)),  # a world without z up, as reconstructions have it: its camera looks straight along z
        a_view(looking_down(85)),
        a_view(looking_down(-10)),
        a_view(looking_down(40) @ np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    ],
    ids=["no intrinsics", "no pose", "no z up", "straight down", "from below", "on its side"],
)
def test_what_says_nothing_about_an_object_leaves_its_rays_unknown(view: View) -> None:
    assert not rays_of(view, [7]).any()


def test_the_mirror_image_has_mirrored_rays() -> None:
    view, _ = made_sample(11)
    assert view.intrinsics is not None and view.T_world_camera is not None
    ids = list(view.instance_ids)
    intrinsics = view.intrinsics.copy()
    intrinsics[0, 2] = view.image.shape[1] - 1 - intrinsics[0, 2]
    mirror = dataclasses.replace(
        view, image=view.image[:, ::-1].copy(), masks=view.masks[:, ::-1].copy(), intrinsics=intrinsics
    )
    np.testing.assert_allclose(rays_of(mirror, ids), mirrored_rays(rays_of(view, ids)), atol=1e-6)


def test_rays_alone_are_near_the_truth_and_an_offset_from_them_reaches_it() -> None:
    rows = [made_sample(seed)[1] for seed in range(20, 30)]
    rays, position, log_size = (
        torch.from_numpy(np.concatenate([r[name] for r in rows])) for name in ("rays", "position", "log_size")
    )
    assert (rays[:, 0] == 1).all()
    distance, size = box_of_rays(rays)
    off = ((position[:, :2].norm(dim=1) - distance) / log_size.exp()).abs()
    # a depth of a size at most lies between the nearest point on the ground and the middle, if nothing hides the former
    assert off.median() < 0.5 and (size.log() - log_size).abs().median() < 0.3

    along = torch.stack([rays[:, 1].sin(), rays[:, 1].cos()], dim=1)
    right = torch.stack([along[:, 1], -along[:, 0]], dim=1)
    offset = torch.stack(
        [
            (position[:, :2] * right).sum(1) / size,
            ((position[:, :2] * along).sum(1) - distance) / size,
            (position[:, 2] - distance * rays[:, 2].tan()) / size,
            log_size - size.log(),
        ],
        dim=1,
    )
    reached = lifted(rays, offset)
    torch.testing.assert_close(reached, torch.cat([position, log_size[:, None]], dim=1), atol=1e-5, rtol=1e-5)


def test_a_readout_that_learned_without_rays_says_the_same_until_it_has_learned_with_them() -> None:
    torch.manual_seed(0)
    arguments = {"channels": 12, "latent_tokens": 8, "latent_channels": 5, "local_tokens": 4}
    plain, with_rays = ConditionReadout(**arguments), ConditionReadout(**arguments, ray_token=True)
    missing, unexpected = with_rays.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unexpected
    _, rows = made_sample(12)
    rays = torch.from_numpy(rows["rays"][:2])
    cond = torch.randn(2, 3 * 4 + 2 * 6, 12)
    token = torch.nn.functional.pad(rays, (0, 12 - rays.shape[1]))[:, None]
    seeing, blind = torch.cat([cond, token], 1), torch.cat([cond, 0 * token], 1)
    torch.testing.assert_close(with_rays.rays(seeing), rays)
    torch.testing.assert_close(with_rays(seeing).latents, plain(cond).latents)
    torch.testing.assert_close(with_rays.place(blind), plain.place(cond))
    position, log_size = with_rays.place(seeing)
    torch.testing.assert_close(torch.cat([position, log_size[:, None]], 1), lifted(rays, torch.zeros(2, 4)))


def test_unknown_rays_have_no_features_and_cost_no_gradient() -> None:
    unknown = torch.zeros(3, 1 + ANGLES, requires_grad=True)
    features = ray_features(unknown)
    assert not features.any()
    features.sum().backward()
    assert unknown.grad is not None and unknown.grad.isfinite().all()


def test_training_varies_what_is_known_by_scene() -> None:
    _, rows = made_sample(13)
    count = len(rows["rays"])
    scenes = 200
    varied = varied_rays(np.tile(rows["rays"], (scenes, 1)), np.random.default_rng(0), np.full(scenes, count))
    by_scene = varied.reshape(scenes, count, -1)
    known = by_scene[:, :, 0]
    assert (known == known[:, :1]).all() and 0.6 < known.mean() < 0.95
    assert not by_scene[known[:, 0] == 0].any()
    pitch = (by_scene - rows["rays"])[known[:, 0] == 1][:, :, 2]
    assert 0.002 < pitch.std() < 0.01 and np.ptp(pitch, axis=1).max() < 1e-5


def test_images_and_rays_of_a_view_belong_together() -> None:
    view, _ = made_sample(14)
    ids = list(view.instance_ids)[::-1]
    np.testing.assert_array_equal(condition_images(view, ids, 28, 28).rays, rays_of(view, ids))
