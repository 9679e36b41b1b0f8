"""Messages <-> numpy: every accepted encoding, strides, byte order, and refusals that say what to do."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scenegen.scene import InvalidInput
from scenegen_ros.conversions import (
    MAX_INSTANCES,
    camera_info_message,
    decode_camera_info,
    decode_compressed,
    decode_depth,
    decode_image,
    decode_masks,
    image_message,
    pose_message,
    read_header,
    transform_message,
)
from scenegen_ros.scene_messages import time_message

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
IDS = np.array([[0, 1, 2], [3, 200, 0]], np.int32)


def padded(message: Image, extra: int) -> Image:
    """The same picture with rows that are longer than their pixels."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    out = Image(height=message.height, width=message.width, encoding=message.encoding, step=message.step + extra)
    out.data = array.array("B", np.pad(rows, ((0, 0), (0, extra)), constant_values=170).tobytes())
    return out


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8"])
@pytest.mark.parametrize("extra", [0, 9])
def test_colour_images(encoding: str, extra: int) -> None:
    pixels = RGB if encoding.startswith("rgb") else RGB[..., ::-1]
    if "a8" in encoding:
        pixels = np.concatenate([pixels, np.full((5, 7, 1), 9, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode_image(padded(image_message(pixels, encoding), extra)), RGB)


def test_grey_and_compressed_images() -> None:
    grey = decode_image(image_message(RGB[..., 0], "mono8"))
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))
    png = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(CompressedImage(format="png", data=png)), RGB)
    for data in (b"", png[:30], b"no picture"):
        with pytest.raises(InvalidInput, match="cannot be decoded"):
            decode_compressed(CompressedImage(format="jpeg", data=data))


@pytest.mark.parametrize(
    "encoding,kind", [("mono8", "u1"), ("8UC1", "u1"), ("mono16", "u2"), ("16UC1", "u2"), ("32SC1", "i4")]
)
@pytest.mark.parametrize("big", [False, True])
def test_masks_of_ids(encoding: str, kind: str, big: bool) -> None:
    message = padded(image_message(IDS.astype((">" if big else "<") + kind), encoding), 4)
    message.is_bigendian = big
    masks = decode_masks(message)
    assert masks.dtype == np.int32
    np.testing.assert_array_equal(masks, IDS)


def test_masks_of_colours_and_negative_ids() -> None:
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[0, 0], colours[1, 1] = (1, 2, 3), (255, 0, 0)
    expected = [[0x010203, 0], [0, 0xFF0000]]
    np.testing.assert_array_equal(decode_masks(image_message(colours, "rgb8")), expected)
    np.testing.assert_array_equal(decode_masks(image_message(colours[..., ::-1], "bgr8")), expected)
    np.testing.assert_array_equal(decode_masks(image_message(np.array([[-1, 4]], np.int32), "32SC1")), [[0, 4]])


def test_masks_with_too_many_colours_are_not_instances() -> None:
    smooth = np.arange(MAX_INSTANCES + 1, dtype=np.uint16)[None]
    with pytest.raises(InvalidInput, match=r"more than 256 instances.*nearest-neighbour"):
        decode_masks(image_message(smooth, "16UC1"))


def test_depth() -> None:
    metres = np.array([[1.5, np.nan, np.inf], [0.0, -1.0, 3.25]], np.float32)
    expected = [[1.5, 0, 0], [0, 0, 3.25]]
    np.testing.assert_array_equal(decode_depth(image_message(metres, "32FC1")), expected)
    big = image_message(metres.astype(">f4"), "32FC1")
    big.is_bigendian = 1
    np.testing.assert_array_equal(decode_depth(big), expected)
    millimetres = np.array([[1500, 0, 65535]], np.uint16)
    np.testing.assert_allclose(decode_depth(image_message(millimetres, "16UC1")), [[1.5, 0, 65.535]], rtol=1e-6)


@pytest.mark.parametrize("decode,topic", [(decode_image, "image"), (decode_masks, "masks"), (decode_depth, "depth")])
def test_unknown_encodings_and_short_messages_are_refused(decode, topic: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput, match=f"^{topic} has encoding 'yuv422', accepted are .*convert"):
        decode(Image(height=2, width=2, encoding="yuv422"))
    encoding = "32FC1" if topic == "depth" else "mono8"
    for width, height, step, data in ((4, 4, 0, 15), (4, 4, 2, 64), (0, 0, 0, 0), (4, 0, 16, 0)):
        message = Image(height=height, width=width, step=step, encoding=encoding, data=bytes(data))
        with pytest.raises(InvalidInput, match=f"^{topic} says {width}x{height}"):
            decode(message)


def test_camera_info() -> None:
    K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    np.testing.assert_array_equal(decode_camera_info(camera_info_message(K, (480, 640)), (480, 640)), K)
    assert decode_camera_info(camera_info_message(None, (480, 640)), (480, 640)) is None
    raw_only = CameraInfo(height=480, width=640, k=K.ravel())
    np.testing.assert_array_equal(decode_camera_info(raw_only, (480, 640)), K)
    binned = camera_info_message(K, (480, 640))
    binned.binning_x = binned.binning_y = 2
    binned.roi.x_offset, binned.roi.y_offset, binned.roi.width, binned.roi.height = 20, 40, 400, 200
    np.testing.assert_allclose(decode_camera_info(binned, (100, 200)), [[250, 0, 150], [0, 255, 100], [0, 0, 1]])
    with pytest.raises(InvalidInput, match="camera_info is for 640x480 but its image is 320x240"):
        decode_camera_info(camera_info_message(K, (480, 640)), (240, 320))


def test_poses() -> None:
    T = np.array([[0, -1, 0, 1.0], [1, 0, 0, 2.0], [0, 0, 1, 3.0], [0, 0, 0, 1]])
    pose, transform = pose_message(T), transform_message(T)
    for position, q in ((pose.position, pose.orientation), (transform.translation, transform.rotation)):
        assert (position.x, position.y, position.z) == (1, 2, 3)
        np.testing.assert_allclose([q.w, q.x, q.y, q.z], [2**-0.5, 0, 0, 2**-0.5], atol=1e-12)


@pytest.mark.parametrize("frame", ["camera_optical_frame", ""])
def test_the_header_is_read_without_deserializing(frame: str) -> None:
    message = image_message(RGB, "rgb8")
    message.header.frame_id = frame
    message.header.stamp = time_message(1_700_000_000_123_456_789)
    assert read_header(serialize_message(message)) == (1_700_000_000_123_456_789, frame)
