"""Depth out of organised clouds of every layout, and refusals that say what to do."""

from __future__ import annotations

import array

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from scenegen.scene import Floats, InvalidInput
from scenegen_ros.points import decode_points
from scenegen_ros.rectification import Lens

SIZE = (30, 40)
K = np.array([[50.0, 0, 19.5], [0, 50, 14.5], [0, 0, 1]])
FRAME = "camera_optical_frame"
RNG = np.random.default_rng(3)


def depth_m() -> Floats:
    """A slope with holes."""
    z = np.linspace(0.8, 2.0, SIZE[0] * SIZE[1]).reshape(SIZE)
    z[RNG.uniform(size=SIZE) < 0.1] = 0
    return z


def cloud(
    z: Floats, *, kind: str = "f4", big: bool = False, extra: int = 0, order: str = "xyz", intrinsics: Floats = K
) -> PointCloud2:
    """As a driver publishes it: a colour between the coordinates, missing points NaN, rows with `extra` bytes more."""
    v, u = np.mgrid[: z.shape[0], : z.shape[1]]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(intrinsics).T
    xyz = np.where(z[..., None] > 0, rays * z[..., None], np.nan)
    turn = ">" if big else "<"
    layout = np.dtype([(order[0], turn + kind), (order[1], turn + kind), ("rgb", turn + "u4"), (order[2], turn + kind)])
    points = np.zeros(z.shape, layout)
    for column, name in enumerate("xyz"):
        points[name] = xyz[..., column]
    rows = points.view(np.uint8).reshape(z.shape[0], -1)
    code = {"f4": PointField.FLOAT32, "f8": PointField.FLOAT64}[kind]
    return PointCloud2(
        header=Header(frame_id=FRAME),
        height=z.shape[0],
        width=z.shape[1],
        fields=[
            PointField(name=name, offset=layout.fields[name][1], datatype=code if name in "xyz" else 6, count=1)
            for name in layout.names
        ],
        is_bigendian=big,
        point_step=layout.itemsize,
        row_step=rows.shape[1] + extra,
        data=array.array("B", np.pad(rows, ((0, 0), (0, extra))).tobytes()),
    )


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("extra,order", [(0, "xyz"), (12, "zxy")])
def test_z_of_every_layout_is_depth(kind: str, big: bool, extra: int, order: str) -> None:
    z = depth_m()
    found = decode_points(cloud(z, kind=kind, big=big, extra=extra, order=order), SIZE, "/" + FRAME, K, None)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(found, z, rtol=1e-6)


def test_infinite_and_negative_points_are_no_reading() -> None:
    z = depth_m()
    message = cloud(z)
    points = np.frombuffer(message.data, np.float32).reshape(*SIZE, 4)
    points[2, 3, 3], points[4, 5, 3], points[6, 7, 0] = np.inf, -1.0, np.nan
    z[2, 3] = z[4, 5] = z[6, 7] = 0
    np.testing.assert_allclose(decode_points(message, SIZE, FRAME, K, None), z, rtol=1e-6)


def test_a_cloud_of_nothing_is_depth_without_a_reading() -> None:
    assert not decode_points(cloud(np.zeros(SIZE)), SIZE, FRAME, K, None).any()


def test_clouds_that_are_not_registered_are_refused() -> None:
    def refused(words: str, message: PointCloud2, intrinsics: Floats | None = K) -> None:
        with pytest.raises(InvalidInput, match=f"^points {words}"):
            decode_points(message, SIZE, FRAME, intrinsics, None)

    flat = cloud(depth_m())
    flat.height, flat.width = 1, SIZE[0] * SIZE[1]
    refused("is unorganised, 1200 points in one row: .*40x30.*depth image", flat)
    refused("is 20x30 but its image is 40x30.*registered", cloud(depth_m()[:, :20]))
    turned = cloud(depth_m())
    turned.header.frame_id = "base_link"
    refused("is in frame 'base_link' but the image is in 'camera_optical_frame': .*only turned by TF", turned)
    refused("is organised but its points project 8 pixels off", cloud(depth_m()), K + [[0, 0, 8], [0, 0, 0], [0, 0, 0]])
    decode_points(cloud(depth_m()), SIZE, FRAME, None, None)  # without intrinsics there is nothing to hold it against
    nameless = cloud(depth_m())
    nameless.fields = [f for f in nameless.fields if f.name != "z"]
    refused(r"has no field 'z' of FLOAT32 or FLOAT64 \(it has x, y, rgb\)", nameless)
    whole = cloud(depth_m())
    whole.fields[3].datatype = PointField.INT16
    refused("has no field 'z'", whole)


@pytest.mark.parametrize("fault", ["short", "row_step", "point_step"])
def test_broken_clouds_are_refused(fault: str) -> None:
    message = cloud(depth_m())
    if fault == "short":
        message.data = message.data[:-8]
    else:
        setattr(message, fault, 8)
    with pytest.raises(InvalidInput, match="^points says 40x30 points .* the publisher's message is broken"):
        decode_points(message, SIZE, FRAME, K, None)


def test_points_of_a_distorted_image_must_project_through_its_lens() -> None:
    z = depth_m()
    lens = Lens.of("plumb_bob", SIZE, K, [-8.0, 0.0, 0.0, 0.0], np.eye(3), K)
    with pytest.raises(InvalidInput, match="pixels off"):
        decode_points(cloud(z), SIZE, FRAME, K, lens)
    slight = Lens.of("plumb_bob", SIZE, K, [-0.05, 0.0, 0.0, 0.0], np.eye(3), K)
    assert decode_points(cloud(z), SIZE, FRAME, K, slight).any()
