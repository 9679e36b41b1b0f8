"""The transform tree: chains, interpolation at a stamp, and errors that say what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scenegen.scene import Floats, InvalidInput
from scenegen_ros.transforms import NotConnected, TooNew, TooOld, TransformBuffer, UnknownFrame

S = 1_000_000_000
STILL = (1.0, 0.0, 0.0, 0.0)


def quaternion(axis: str, degrees: float) -> tuple[float, float, float, float]:
    w, x, y, z = Rotation.from_euler(axis, degrees, degrees=True).as_quat(scalar_first=True).tolist()
    return w, x, y, z


def matrix(axis: str, degrees: float, translation: tuple[float, float, float]) -> Floats:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    T[:3, 3] = translation
    return T


def test_a_chain_over_static_and_moving_frames_and_a_common_ancestor() -> None:
    buffer = TransformBuffer()
    buffer.add("map", "base", 1 * S, (1.0, 2.0, 0.0), quaternion("z", 90))
    buffer.add("/base", "/camera", 0, (0.0, 0.0, 1.5), quaternion("x", -90), static=True)
    buffer.add("map", "dock", 0, (5.0, 0.0, 0.0), quaternion("z", 180), static=True)
    T_map_camera = matrix("z", 90, (1.0, 2.0, 0.0)) @ matrix("x", -90, (0.0, 0.0, 1.5))
    np.testing.assert_allclose(buffer.lookup("map", "camera", 1 * S), T_map_camera, atol=1e-12)
    T_dock_camera = np.linalg.inv(matrix("z", 180, (5.0, 0.0, 0.0))) @ T_map_camera
    np.testing.assert_allclose(buffer.lookup("dock", "camera", 1 * S), T_dock_camera, atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("camera", "camera", 99 * S), np.eye(4))


def test_between_two_stamps_the_pose_is_interpolated_also_when_they_came_out_of_order() -> None:
    buffer = TransformBuffer()
    buffer.add("map", "camera", 2 * S, (2.0, 0.0, 0.0), quaternion("z", 80))
    buffer.add("map", "camera", 2 * S - S // 4, (1.0, 0.0, 0.0), quaternion("z", 40))
    T = buffer.lookup("map", "camera", 2 * S - S // 8)
    np.testing.assert_allclose(T, matrix("z", 60, (1.5, 0.0, 0.0)), atol=1e-12)


def test_errors_name_what_is_missing_and_whether_waiting_helps() -> None:
    buffer = TransformBuffer(cache_s=3.0)
    with pytest.raises(UnknownFrame, match="no frame 'map'"):
        buffer.lookup("map", "camera", S)
    for second in (10, 12, 14, 16):
        buffer.add("map", "base", second * S, (float(second), 0.0, 0.0), STILL)
    buffer.add("odom", "camera", 16 * S, (0.0, 0.0, 0.0), STILL)
    with pytest.raises(NotConnected, match="'camera' to 'odom' and 'map' to 'map'") as unconnected:
        buffer.lookup("map", "camera", 16 * S)
    with pytest.raises(TooNew, match=r"'map' -> 'base' is 0\.500 s older") as new:
        buffer.lookup("map", "base", 16 * S + S // 2)
    with pytest.raises(TooOld, match=r"'map' -> 'base' still held is 1\.000 s newer") as old:
        buffer.lookup("map", "base", 13 * S)  # 10 and 12 are beyond the cache
    assert unconnected.value.may_come and new.value.may_come and not old.value.may_come


def test_stamps_that_run_backwards_drop_what_was_held() -> None:
    buffer = TransformBuffer()
    buffer.add("map", "camera", 100 * S, (1.0, 0.0, 0.0), STILL)
    buffer.add("map", "camera", 5 * S, (2.0, 0.0, 0.0), STILL)
    assert buffer.lookup("map", "camera", 5 * S)[0, 3] == 2.0
    with pytest.raises(TooNew):
        buffer.lookup("map", "camera", 100 * S)


def test_after_a_jump_back_only_what_is_of_the_new_time_stays() -> None:
    buffer = TransformBuffer()
    buffer.add("map", "odom", 100 * S, (1.0, 0.0, 0.0), STILL)
    buffer.add("odom", "camera", 5 * S, (2.0, 0.0, 0.0), STILL)  # it jumped before the image that shows the jump
    buffer.add("map", "dock", 0, (3.0, 0.0, 0.0), STILL, static=True)
    buffer.jumped_back(5 * S)
    assert buffer.frames == ("camera", "dock", "map", "odom")
    with pytest.raises(NotConnected):
        buffer.lookup("map", "camera", 5 * S)
    buffer.add("map", "odom", 5 * S, (1.0, 0.0, 0.0), STILL)
    assert buffer.lookup("map", "camera", 5 * S)[0, 3] == 3.0
    assert buffer.lookup("map", "dock", 5 * S)[0, 3] == 3.0


def test_a_broken_transform_is_refused_and_a_loop_ends() -> None:
    buffer = TransformBuffer()
    with pytest.raises(InvalidInput, match="'map' -> 'camera'"):
        buffer.add("map", "camera", S, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InvalidInput, match="finite"):
        buffer.add("map", "camera", S, (float("nan"), 0.0, 0.0), STILL)
    buffer.add("a", "b", S, (0.0, 0.0, 0.0), STILL)
    buffer.add("b", "a", S, (0.0, 0.0, 0.0), STILL)
    buffer.add("map", "camera", S, (0.0, 0.0, 0.0), STILL)
    with pytest.raises(NotConnected):
        buffer.lookup("map", "a", S)
