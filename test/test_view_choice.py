"""Which views stay: round the objects rather than from one side, sharp rather than blurred."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from scenegen.render import look_at
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic import Camera, camera_path, make_scene, render
from scenegen_ros.pairing import Message, MessageSet
from scenegen_ros.parameters import Parameters
from scenegen_ros.view_choice import SHARPER, Aim, differences, middle_of, sharpness
from scenegen_ros.view_collector import COMPARE_S, COMPARISONS, ViewCollector

SCENE = make_scene(4)
CAMERA = Camera.pinhole(160, 120, 150.0)
PICTURE = render(SCENE, CAMERA, camera_path(SCENE, 1, 0, CAMERA)[0], supersample=2)


def blurred(view: View, sigma: float) -> View:
    return replace(view, image=np.asarray(cv2.GaussianBlur(view.image, (0, 0), sigma), np.uint8))


def stand(azimuth_deg: float, elevation_deg: float = 35.0, metres: float = 1.0, centre: Floats | None = None) -> Floats:
    """T_world_camera of a camera that looks at the centre (the origin) from there."""
    a, e = np.deg2rad([azimuth_deg, elevation_deg])
    back = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    T = look_at(back, np.zeros(3))
    T[:3, 3] = metres * back + (np.zeros(3) if centre is None else centre)
    return T


class Bench:
    """A collector whose camera is where it is told, and whose picture is of one ball at the origin."""

    def __init__(self, *, depth: bool = True, **parameters: Any) -> None:
        self.T: Floats = np.eye(4)
        self.picture = PICTURE.image
        self.ids = (1,)
        self.depth = depth
        self.count = 0
        self.decoded = 0
        self.collector = ViewCollector(
            Parameters(**parameters), self.decode, lambda *_: self.T, lambda _: None, lambda _: None
        )

    def decode(self, messages: MessageSet) -> View:
        self.decoded += 1
        masks = np.zeros(self.picture.shape[:2], np.int32)
        for i in self.ids:
            masks[40:80, 30 + 30 * i : 60 + 30 * i] = i
        depth_m = np.where(masks > 0, np.float32(1), np.float32(0)) if self.depth else None
        return View(self.picture, masks, depth_m, CAMERA.intrinsics, None, messages.stamp_ns)

    def see(self, T: Floats, *, picture: np.ndarray = PICTURE.image, ids: tuple[int, ...] = (1,)) -> None:
        """One frame, half a second after the one before."""
        self.T, self.picture, self.ids = T, picture, ids
        self.count += 1
        for topic in ("image", "camera_info", "masks"):
            self.collector.add(topic, Message(self.count * 500_000_000, "camera", b""), self.count * 0.5)

    def azimuths(self) -> Floats:
        at = np.stack([k.view.T_world_camera[:2, 3] for k in self.collector.views()])  # type: ignore[index]
        return np.sort(np.rad2deg(np.arctan2(at[:, 1], at[:, 0])) % 360)


@pytest.mark.parametrize("gain,offset", [(1.0, 0), (0.6, 10)])
def test_blur_lowers_sharpness_and_exposure_does_not(gain: float, offset: int) -> None:
    exposed = replace(PICTURE, image=(PICTURE.image * gain + offset).astype(np.uint8))
    assert 0.8 < sharpness(exposed) / sharpness(PICTURE) < 1.25
    measured = [sharpness(exposed), *(sharpness(blurred(exposed, sigma)) for sigma in (1.0, 2.0))]
    assert all(a > SHARPER * b for a, b in zip(measured, measured[1:], strict=False))


def test_only_the_objects_count_for_sharpness() -> None:
    empty = replace(PICTURE, masks=np.zeros_like(PICTURE.masks))
    assert sharpness(empty) == 0
    around = replace(PICTURE, image=blurred(PICTURE, 4.0).image)
    objects = np.asarray(cv2.dilate((PICTURE.masks > 0).astype(np.uint8), np.ones((9, 9)))) > 0
    around = replace(around, image=np.where(objects[..., None], PICTURE.image, around.image))
    assert sharpness(around) == pytest.approx(sharpness(PICTURE), rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_views_of_one_side_go_before_views_around(seed: int) -> None:
    """A robot that dithers at one side, and goes once around in between; eight views cannot stand closer than 45."""
    rng = np.random.default_rng(seed)
    bench = Bench(max_views=8)
    for i in range(36):
        bench.see(stand(10.0 * i, rng.uniform(25, 45), rng.uniform(0.9, 1.1)))
        for _ in range(4):
            bench.see(stand(rng.uniform(-12, 12), rng.uniform(25, 45), rng.uniform(0.9, 1.1)))
    around = bench.azimuths()
    gaps = np.diff(np.append(around, around[0] + 360))
    assert len(around) == 8 and gaps.max() <= 100, around
    assert bench.collector.passed["redundant among max_views"] > 20


@pytest.mark.parametrize("depth", [True, False])
def test_what_views_stand_around_is_measured_or_where_they_look(depth: bool) -> None:
    centre = np.array([2.0, -1.0, 0.5])
    aims = []
    for azimuth in (0.0, 40.0, 200.0):
        masks = np.zeros((120, 160), np.int32)
        masks[50:70, 70:90] = 1
        depth_m = np.full((120, 160), 1.2, np.float32) if depth else None
        view = View(np.zeros((120, 160, 3), np.uint8), masks, depth_m, CAMERA.intrinsics)
        aims.append(Aim.of(view, stand(azimuth, metres=1.2, centre=centre)))
    middle = middle_of(aims)
    assert middle is not None
    np.testing.assert_allclose(middle, centre, atol=0.01)
    assert differences(aims[:1], aims[1:], 0.1, 10)[0, 0] == pytest.approx(3.27, abs=0.05)  # at 35 degrees of elevation
    assert (middle_of(aims[:1]) is None) != depth
    if not depth:
        parallel = [replace(aims[0], T_world_camera=aims[0].T_world_camera + np.eye(4, k=3) * m) for m in (0.0, 0.3)]
        assert middle_of(parallel) is None


def test_a_close_view_and_other_objects_count_as_difference() -> None:
    middle = np.zeros(3)
    far, close = (Aim(stand(0, metres=m), {1, 2}, middle, None) for m in (1.6, 0.8))
    others = Aim(stand(0, metres=1.6), {3}, middle, None)
    np.testing.assert_allclose(differences([far], [far, close, others], 0.1, 10), [[0, 2, 8]], atol=1e-6)


def test_a_sharper_view_takes_the_place_of_a_blurred_one() -> None:
    bench = Bench()
    soft, softer = blurred(PICTURE, 2.0).image, blurred(PICTURE, 4.0).image
    bench.see(stand(0), picture=soft)
    bench.see(stand(90))
    bench.see(stand(1), picture=softer)
    assert bench.azimuths().tolist() == pytest.approx([0, 90])
    bench.see(stand(2))
    assert bench.azimuths().tolist() == pytest.approx([2, 90])
    assert bench.collector.passed["replaced by a sharper one from there"] == 1
    assert bench.collector.kept_ever == 2, "it is no new view"
    bench.see(stand(3))
    assert bench.azimuths().tolist() == pytest.approx([2, 90]), "as sharp is not sharper"


def test_a_sharper_view_that_lacks_an_object_or_comes_near_another_view_does_not() -> None:
    bench = Bench(min_translation_m=0.1)
    bench.see(stand(0), picture=blurred(PICTURE, 2.0).image, ids=(1, 2))
    bench.see(stand(1), ids=(1,))
    assert bench.azimuths().tolist() == pytest.approx([0])
    bench.see(stand(9), picture=blurred(PICTURE, 2.0).image, ids=(1, 2))
    bench.see(stand(4.5), ids=(1, 2))
    assert bench.azimuths().tolist() == pytest.approx([0, 9])


def test_of_two_alike_the_blurred_one_is_given_up_though_it_is_newer() -> None:
    for newest, stays in ((blurred(PICTURE, 2.0).image, [0, 120, 240]), (PICTURE.image, [10, 120, 240])):
        bench = Bench(max_views=3)
        for azimuth in (0, 120, 240):
            bench.see(stand(azimuth))
        bench.see(stand(10), picture=newest)
        assert bench.azimuths().tolist() == pytest.approx(stays)


def test_of_two_alike_the_one_that_sees_less_is_given_up() -> None:
    bench = Bench(max_views=3)
    for azimuth in (0, 120, 240):
        bench.see(stand(azimuth), ids=(1, 2, 3))
    bench.see(stand(7), ids=(1, 2))
    assert {len(k.ids) for k in bench.collector.views()} == {3}


def test_the_first_views_are_the_best_few() -> None:
    bench = Bench()
    for azimuth in (0, 10, 20, 180, 100):
        bench.see(stand(azimuth))
    first = [round(float(np.rad2deg(np.arctan2(*k.view.T_world_camera[1::-1, 3])))) for k in bench.collector.views()]
    assert first[0] == 100 and set(first[1:3]) == {0, 180}


def test_a_camera_that_stands_still_is_not_decoded_for_ever() -> None:
    bench = Bench()
    for _ in range(3 * COMPARISONS):
        bench.see(stand(0))
    assert bench.decoded == 1 + COMPARISONS
    assert COMPARE_S < 0.5
    bench.see(stand(90))
    assert bench.decoded == 2 + COMPARISONS


def test_what_cannot_be_compared_is_told_and_what_stands_stays() -> None:
    bench = Bench()
    bench.see(stand(0))
    inner = bench.collector._decode

    def fails(messages: MessageSet) -> View:
        raise InvalidInput("image has encoding 'x'")

    bench.collector._decode = fails
    bench.see(stand(0))
    assert bench.collector.count == 1 and bench.collector.problem
    bench.collector._decode = inner
    bench.see(stand(0))
    assert bench.collector.count == 1 and not bench.collector.problem
