"""Views of a distorted camera come out as its rectified camera sees the same scene, and placement works on them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo

from scenegen.placement import place_scene
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render, true_scene
from scenegen_ros import rectification
from scenegen_ros.conversions import decode_camera_info, decode_lens
from scenegen_ros.rectification import Lens, rectified, wants_rectifying

SIZE = (180, 240)
FOCAL = 172.0
LENSES = {
    "plumb_bob": [-0.28, 0.09, 0.0012, -0.0008, -0.012],
    "rational_polynomial": [0.35, -0.11, 0.0007, -0.0005, 0.004, 0.72, -0.12, 0.01],
    "equidistant": [-0.012, 0.021, -0.018, 0.004],
}
SCENE = make_scene(4)
POSES = camera_path(SCENE, 2, 1, Camera.pinhole(SIZE[1], SIZE[0], 1.3 * FOCAL))


def camera_info(
    model: str,
    d: list[float],
    *,
    turned_deg: float = 0.0,
    intrinsics: Floats | None = None,
    size: tuple[int, int] = SIZE,
) -> CameraInfo:
    """Of a camera that does not look quite through the middle of its image; intrinsics: the rectified ones."""
    K = np.array([[FOCAL, 0, 122.5], [0, FOCAL * 1.01, 88.0], [0, 0, 1]])
    P = np.array([[0.95 * FOCAL, 0, 120.0], [0, 0.95 * FOCAL, 89.0], [0, 0, 1]])
    if intrinsics is not None:
        K = P = intrinsics
    R = Rotation.from_euler("yx", [turned_deg, -turned_deg / 2], degrees=True).as_matrix()
    P = np.column_stack([P, np.zeros(3)])
    return CameraInfo(height=size[0], width=size[1], distortion_model=model, d=d, k=K.ravel(), r=R.ravel(), p=P.ravel())


def undistorted_rays(info: CameraInfo, pixels: Floats) -> Floats:
    """[n, 2] rays (x/z, y/z) of pixels [n, 2] of the distorted image: the maps the other way round."""
    K, d = np.array(info.k).reshape(3, 3), np.array(info.d)
    if info.distortion_model == "equidistant":
        return cv2.fisheye.undistortPoints(pixels[None], K, d)[0]
    k1, k2, p1, p2, k3, k4, k5, k6 = [*d, 0.0, 0.0, 0.0][:8]
    seen = (pixels - K[:2, 2]) / [K[0, 0], K[1, 1]]
    rays = seen.copy()
    for _ in range(40):
        x, y = rays.T
        s = x * x + y * y
        radial = (1 + s * (k1 + s * (k2 + s * k3))) / (1 + s * (k4 + s * (k5 + s * k6)))
        aside = [2 * p1 * x * y + p2 * (s + 2 * x * x), p1 * (s + 2 * y * y) + 2 * p2 * x * y]
        rays = (seen - np.stack(aside, axis=1)) / radial[:, None]
    return rays


def distorted(scene: SyntheticScene, info: CameraInfo, T_world_camera: Floats) -> View:
    """What the distorted camera sees, taken out of a wide picture with many pixels; its depth is along its own axis."""
    wide = Camera.pinhole(780, 600, 1.5 * FOCAL)
    seen = render(scene, wide, T_world_camera)
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = undistorted_rays(info, np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64))
    x, y = (rays @ wide.intrinsics[:2, :2].T + wide.intrinsics[:2, 2]).T.reshape(2, *SIZE).astype(np.float32)
    assert min(x.min(), y.min()) >= 0 and x.max() < wide.width and y.max() < wide.height, "the picture is wide enough"
    at = np.rint(y).astype(int), np.rint(x).astype(int)
    image = cv2.remap(seen.image, x, y, cv2.INTER_LINEAR)
    intrinsics = decode_camera_info(info, SIZE)
    return View(image, seen.masks[at], seen.depth_m[at], intrinsics, T_world_camera)


def rectified_truth(scene: SyntheticScene, info: CameraInfo, T_world_camera: Floats) -> View:
    """The rectified camera's own picture: turned by R, a pinhole with P."""
    R = np.array(info.r).reshape(3, 3)
    T = T_world_camera.copy()
    T[:3, :3] = T[:3, :3] @ R.T
    return render(scene, Camera(SIZE[1], SIZE[0], decode_camera_info(info, SIZE)), T)


def within_a_pixel(found: NDArray[np.bool_], true: NDArray[np.bool_], seen: NDArray[np.bool_]) -> bool:
    near = np.ones((3, 3))
    outside = found & ~ndimage.binary_dilation(true, near) & seen
    missing = ndimage.binary_erosion(true, near) & ~found & seen
    return not outside.any() and not missing.any()


@pytest.mark.parametrize("turned_deg", [0.0, 4.0])
@pytest.mark.parametrize("model", LENSES)
def test_a_rectified_view_is_what_the_rectified_camera_sees(model: str, turned_deg: float) -> None:
    info = camera_info(model, LENSES[model], turned_deg=turned_deg)
    T = POSES[0]
    raw = distorted(SCENE, info, T)
    lens = decode_lens(info, SIZE)
    assert lens is not None
    view, true = rectified(raw, lens), rectified_truth(SCENE, info, T)
    seen = ndimage.binary_erosion(view.depth_m > 0, np.ones((3, 3)))
    assert seen.mean() > 0.8
    for i in true.instance_ids:
        assert within_a_pixel(view.masks == i, true.masks == i, seen), (model, i)
        assert not within_a_pixel(raw.masks == i, true.masks == i, seen), "the lens does something"
        core = ndimage.binary_erosion((view.masks == i) & (true.masks == i), iterations=3)
        off = np.abs(view.depth_m - true.depth_m)[core]
        assert np.median(off) < 4e-3, (model, i)  # the nearest pixel of a slope is that far off
    off, before = (np.abs(v.image.astype(int) - true.image)[seen] for v in (view, raw))
    assert np.median(off) <= 2 and off.mean() < 0.5 * before.mean()


def test_objects_are_placed_from_a_distorted_camera() -> None:
    info = camera_info("equidistant", LENSES["equidistant"])
    lens = decode_lens(info, SIZE)
    assert lens is not None
    raw = [distorted(SCENE, info, T) for T in POSES]
    views = [rectified(view, lens) for view in raw]

    def off_m(views: list[View]) -> list[float]:
        placed = place_scene(true_scene(SCENE, views[0]), views)
        return [float(np.linalg.norm((o.T_world_object - SCENE.T_world_object[o.id - 1])[:3, 3])) for o in placed]

    found, misled = off_m(views), off_m(raw)
    assert np.median(found) < 0.002 and max(found) < 0.02
    assert np.median(misled) > 2 * np.median(found), "taken as they come, the views mislead"


def test_maps_are_made_once_per_camera_and_without_a_lens_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    inner = cv2.initUndistortRectifyMap
    monkeypatch.setattr(cv2, "initUndistortRectifyMap", lambda *a: made.append(1) or inner(*a))
    rectification._maps.cache_clear()
    view = View(np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.int32))
    for _ in range(3):
        lens = decode_lens(camera_info("plumb_bob", LENSES["plumb_bob"]), SIZE)
        assert lens is not None
        rectified(view, lens)
    assert len(made) == 1
    for model, d in (("plumb_bob", [0.0] * 5), ("", []), ("whatever", [0.0]), ("equidistant", [0.0] * 4)):
        assert decode_lens(camera_info(model, d), SIZE) is None
    assert decode_lens(CameraInfo(height=SIZE[0], width=SIZE[1], d=[0.1] * 5), SIZE) is None, "uncalibrated"


@pytest.mark.parametrize(
    "model,d,words",
    [
        ("plumb", [0.1] * 5, "distortion_model 'plumb', known are plumb_bob.*rectify to never"),
        ("", [0.1] * 5, "distortion_model ''"),
        ("plumb_bob", [0.1] * 8, "8 coefficients d for distortion_model 'plumb_bob', which has 4 or 5"),
        ("rational_polynomial", [0.1] * 5, "5 coefficients .* which has 8 or 12 or 14"),
        ("equidistant", [0.1] * 5, "5 coefficients .* which has 4:"),
        ("plumb_bob", [0.1, float("nan"), 0, 0, 0], "NaN"),
    ],
)
def test_a_lens_that_is_not_known_is_refused(model: str, d: list[float], words: str) -> None:
    with pytest.raises(InvalidInput, match=f"^camera_info .*{words}"):
        decode_lens(camera_info(model, d), SIZE)


def test_corners_that_a_polynomial_folds_back_are_not_seen() -> None:
    """A barrel fitted to the image's middle: rectified corners must not show the middle a second time."""
    info = camera_info("plumb_bob", [-0.6, 0.05, 0.0, 0.0, 0.0])
    lens = decode_lens(info, SIZE)
    assert lens is not None
    view = View(np.full((*SIZE, 3), 200, np.uint8), np.ones(SIZE, np.int32), np.ones(SIZE, np.float32))
    out = rectified(view, lens)
    v, u = np.nonzero(out.masks)
    K = decode_camera_info(info, SIZE)
    radius = np.hypot((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1])
    assert 0.6 < radius.max() < 1 / np.sqrt(3 * 0.6) + 0.05, "where r (1 - 0.6 r^2) is steepest"
    assert out.masks[0, 0] == 0 and out.depth_m[0, 0] == 0 and (out.image[0, 0] == 0).all()
    assert out.masks[SIZE[0] // 2, SIZE[1] // 2] == 1


def test_regions_and_binning_apply_to_the_lens_too() -> None:
    whole = camera_info("plumb_bob", LENSES["plumb_bob"])
    part = camera_info("plumb_bob", LENSES["plumb_bob"])
    part.binning_x = part.binning_y = 2
    part.roi.x_offset, part.roi.y_offset, part.roi.width, part.roi.height = 40, 20, 160, 120
    a, b = decode_lens(whole, SIZE), decode_lens(part, (60, 80))
    assert a is not None and b is not None
    point = np.array([[0.2, -0.1, 1.0]])
    np.testing.assert_allclose(b.project(point), (a.project(point) - [40, 20]) / 2, atol=1e-9)


def test_lenses_are_the_same_when_their_numbers_are() -> None:
    K = np.diag([100.0, 100, 1])
    made = [Lens.of("plumb_bob", SIZE, K.copy(), [0.1] * 5, np.zeros((3, 3)), K.copy()) for _ in range(2)]
    assert made[0] == made[1] and hash(made[0]) == hash(made[1])


def test_auto_goes_by_the_name_of_the_image_topic() -> None:
    for topic in ("/camera/image_rect", "/zed/rgb/image_rect_color", "/camera/rect/image", "/image_rectified"):
        assert not wants_rectifying("auto", topic) and wants_rectifying("always", topic)
    for topic in ("/image", "/camera/image_raw", "/director/image_color"):
        assert wants_rectifying("auto", topic) and not wants_rectifying("never", topic)
