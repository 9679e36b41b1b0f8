"""Bytes of requests and events: lossless there and back, and every kind of damage named."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from serving import box, textured_box, view

from scenegen.prompts import Prompt, PromptedView, with_prompts
from scenegen.scene import InvalidInput, Placement, Progress, Scene, View
from scenegen.wire import (
    ALIVE,
    EventReader,
    EventWriter,
    Failure,
    FrameReader,
    Masks,
    Request,
    RequestReader,
    encode_failure,
    encode_frame,
    encode_masks,
    encode_request,
)


def decode(data: bytes, piece: int = 1000) -> Request:
    reader = RequestReader()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader.finish()


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("largest_id", [3, 65535, 70000])
def test_request_comes_back_bit_for_bit(compact: bool, largest_id: int) -> None:
    views = [view((1, 2, largest_id)), view(depth=False)]
    request = decode(b"".join(encode_request(views, -(2**40), [7, 3], compact=compact, detail="coarse")))
    assert (request.seed, request.ids, request.detail) == (-(2**40), (7, 3), "coarse")
    for sent, got in zip(views, request.views, strict=True):
        for name in ("image", "masks", "depth_m", "intrinsics", "T_world_camera"):
            np.testing.assert_array_equal(getattr(sent, name), getattr(got, name), name)
        assert got.masks.dtype == np.int32 and got.image.flags.writeable
        assert got.stamp_ns == sent.stamp_ns


def test_camera_may_be_unknown() -> None:
    blind = View(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.int32))
    request = decode(b"".join(encode_request([blind], 1, None, compact=True)))
    assert request.ids is None
    assert request.views[0].intrinsics is None and request.views[0].T_world_camera is None


@pytest.mark.parametrize("compact", [False, True])
def test_prompts_come_back_and_pixels_of_masks_and_depth_stay_at_home(compact: bool) -> None:
    prompts = (
        Prompt(2**31 - 1, (0.0, 1 / 3, 31.5, 24.0), label="Tasse, groß"),
        Prompt(3, inside=((1.5, 2.0), (3.0, 4.0)), outside=((5.0, 6.0),)),
    )
    views = [with_prompts(view(), prompts), with_prompts(view(), ())]
    frames = encode_request(views, 0, None, compact=compact)
    assert len(frames) == 3
    for sent, got in zip(views, decode(b"".join(frames)).views, strict=True):
        assert isinstance(got, PromptedView) and got.prompts == sent.prompts and got.stamp_ns == sent.stamp_ns
        np.testing.assert_array_equal(got.image, sent.image)
        assert got.depth_m is None and not got.masks.any()


def test_masks_come_back_and_damage_is_named() -> None:
    planes = [view((1, 70000)).masks, view((2,), (5, 9)).masks]
    (masks,) = EventReader().feed(encode_masks(planes))
    assert isinstance(masks, Masks)
    for sent, got in zip(planes, masks.planes, strict=True):
        np.testing.assert_array_equal(sent, got)
        assert got.dtype == np.int32
    ((header, payload),) = FrameReader().feed(encode_masks(planes))
    bomb = zlib.compress(bytes(10_000_000))
    for damaged in (
        encode_frame(header, payload[:-9]),
        encode_frame(header, bomb),
        encode_frame(header | {"sizes": [[5, 9]]}, payload),
        encode_frame(header | {"sizes": []}, payload),
        encode_frame(header | {"sizes": 3}, payload),
        encode_frame(header, b"not zlib"),
    ):
        with pytest.raises(InvalidInput, match="'masks' event is garbled"):
            list(EventReader().feed(damaged))


def frames_of(compact: bool = True) -> list[tuple[dict, bytes]]:
    return list(FrameReader().feed(b"".join(encode_request([view()], 1, None, compact=compact))))


def rebuilt(frames: list[tuple[dict, bytes]]) -> bytes:
    return b"".join(encode_frame(header, payload) for header, payload in frames)


def change_view(frames: list[tuple[dict, bytes]], **fields: object) -> None:
    frames[0][0]["views"][0] |= fields


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.clear(), "empty or cut short"),
        (lambda f: f.pop(1), "view 0 image is missing"),
        (lambda f: f.pop(2), "view 0 masks is missing"),
        (lambda f: f.pop(), "view 0 depth is missing"),
        (lambda f: f.append(f[1]), "goes on after its last view"),
        (lambda f: f.__setitem__(1, ({"kind": "image", "encoding": "png"}, f[1][1][:-200])), "view 0 image"),
        (lambda f: f.__setitem__(1, ({"kind": "image", "encoding": "png"}, b"GIF89a")), "view 0 image is not a PNG"),
        (lambda f: f.__setitem__(1, ({"kind": "image", "encoding": "pickle"}, f[1][1])), "unknown encoding 'pickle'"),
        (lambda f: f.__setitem__(2, ({"kind": "masks", "encoding": "raw"}, b"12")), "view 0 masks has 2 bytes"),
        (lambda f: f.__setitem__(3, ({"kind": "depth", "encoding": "zlib"}, b"12")), "view 0 depth is not valid zlib"),
        (lambda f: f[0][0].update(kind="scene"), "starts with a request frame"),
        (lambda f: f[0][0].update(seed="1"), "seed must be"),
        (lambda f: f[0][0].update(ids=[1, 2.5]), "ids must be"),
        (lambda f: f[0][0].update(detail="fine"), "detail is 'fine', it must be one of: coarse, textured"),
        (lambda f: f[0][0].update(views=[]), "no views"),
        (lambda f: change_view(f, size=[24, 31]), "view 0 image is not a PNG of 31 x 24"),
        (lambda f: change_view(f, size=[24, -32]), "view 0 is -32 x 24"),
        (lambda f: change_view(f, intrinsics=[[1, 2]]), "view 0 intrinsics must be 3 x 3"),
        (lambda f: change_view(f, T_world_camera="here"), "view 0 T_world_camera must be 4 x 4"),
        (lambda f: change_view(f, stamp_ns=2**70), "view 0 stamp_ns must be"),
    ],
)
def test_damage_is_named(damage, message: str) -> None:  # noqa: ANN001
    frames = frames_of()
    damage(frames)
    with pytest.raises(InvalidInput, match=message):
        decode(rebuilt(frames))


def test_bytes_that_are_no_frames() -> None:
    data = b"".join(encode_request([view()], 1, None, compact=True))
    with pytest.raises(InvalidInput, match="not a scenegen frame"):
        decode(b"\x80\x04pickled things" * 10)
    with pytest.raises(InvalidInput, match="view 0 depth is missing"):
        decode(data[:-10])
    deep = b"[" * 100_000
    with pytest.raises(InvalidInput, match="not JSON"):
        decode(b"SGv1" + len(deep).to_bytes(4, "big") + bytes(8) + deep)


def test_unpacking_stops_at_the_announced_size() -> None:
    frames = frames_of()
    bomb = zlib.compress(bytes(20 << 20), 1)
    frames[3] = ({"kind": "depth", "encoding": "zlib"}, bomb)
    with pytest.raises(InvalidInput, match="needs 3072"):
        decode(rebuilt(frames))


def test_a_request_is_judged_before_its_pixels_come() -> None:
    def refuse(header) -> None:  # noqa: ANN001
        assert header.sizes == ((24, 32),)
        raise InvalidInput("too much")

    reader = RequestReader(refuse)
    with pytest.raises(InvalidInput, match="too much"):
        reader.feed(encode_request([view()], 1, None, compact=False)[0])


def test_events_come_back_and_each_asset_goes_out_once() -> None:
    assets = (box(4), box(9))
    placements = (
        Placement(np.zeros(3), np.array([1.0, 0, 0, 0]), 1.0),
        Placement(np.array([0.1, 1 / 3, -2]), np.array([0.5, -0.5, 0.5, 0.5]), 0.3),
    )
    scene = Scene(assets, placements, 1, {"structure": 1.25})
    writer, reader = EventWriter(), EventReader()
    sent = writer.progress(Progress("structure", 0.25)) + ALIVE + writer.progress(Progress("assets", 0.5, assets[0]))
    ending = writer.scene(scene)
    assert ending.count(b"glTF") == 1, "the asset that went out with the progress must not be sent again"
    stream = sent + ending
    events = [event for i in range(0, len(stream), 7) for event in reader.feed(stream[i : i + 7])]
    assert [(e.stage, e.fraction) for e in events[:-1] if isinstance(e, Progress)] == [
        ("structure", 0.25),
        ("assets", 0.5),
        ("assemble", 1.0),
    ]
    got = events[-1]
    assert isinstance(got, Scene) and got.query == 1 and got.seconds == {"structure": 1.25}
    for a, b in zip(got.assets, assets, strict=True):
        assert (a.id, a.label, a.detail) == (b.id, b.label, b.detail)
        np.testing.assert_array_equal(a.mesh.vertices, b.mesh.vertices.astype(np.float32))
        np.testing.assert_array_equal(a.mesh.faces, b.mesh.faces)
        np.testing.assert_array_equal(a.mesh.visual.vertex_colors, b.mesh.visual.vertex_colors)
    for p, q in zip(got.placements, placements, strict=True):
        np.testing.assert_array_equal(p.translation, q.translation)
        np.testing.assert_array_equal(p.rotation_wxyz, q.rotation_wxyz)
        assert p.scale == q.scale


def test_a_request_of_an_older_client_asks_for_the_best_there_is() -> None:
    frames = frames_of()
    del frames[0][0]["detail"]
    assert decode(rebuilt(frames)).detail == "textured"


def test_the_coarse_scene_comes_first_and_textured_assets_replace_its_own() -> None:
    placements = (Placement.identity(), Placement(np.array([0.1, 1 / 3, -2]), np.array([0.5, -0.5, 0.5, 0.5]), 0.3))
    coarse = Scene((box(4), box(9)), placements, 0)
    textured = Scene((textured_box(4), coarse.assets[1]), placements, 0)
    writer = EventWriter()
    stream = b"".join(
        [
            writer.progress(Progress("assets", 0.5, coarse.assets[0])),
            writer.progress(Progress("latents", 0.6, scene=coarse)),
            writer.progress(Progress("textures", 0.9, textured.assets[0])),
            writer.scene(textured),
        ]
    )
    assert stream.count(b"glTF") == 3, "the asset that stays coarse is not sent again"
    _, late, first, second, last = EventReader().feed(stream)
    assert isinstance(first, Progress) and first.scene is not None and isinstance(late, Progress)
    assert [a.id for a in first.scene.assets] == [4, 9] and late.asset is first.scene.assets[1]
    np.testing.assert_array_equal(first.scene.placements[1].translation, placements[1].translation)
    assert isinstance(second, Progress) and second.asset is not None and second.asset.detail == "textured"
    assert isinstance(last, Scene) and [a.detail for a in last.assets] == ["textured", "coarse"]
    sent, got = (s.assets[0].mesh.visual for s in (textured, last))
    np.testing.assert_allclose(got.uv, sent.uv, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(got.material.baseColorTexture), np.asarray(sent.material.baseColorTexture))


def test_glb_on_the_wire_is_y_up() -> None:
    frame = EventWriter().progress(Progress("assets", 0.5, box(4)))
    ((_, glb),) = FrameReader().feed(frame)
    size = int.from_bytes(glb[12:16], "little")
    gltf = json.loads(glb[20 : 20 + size])
    position = gltf["accessors"][gltf["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    np.testing.assert_allclose(position["max"], [0.5, 0.07, 0.25], atol=1e-6)


def test_failures_and_garbled_events() -> None:
    (failure,) = EventReader().feed(encode_failure(Failure("GenerationFailed", "no memory")))
    assert failure == Failure("GenerationFailed", "no memory")
    asset = {"id": 3, "label": "", "detail": "coarse"}
    for frame, message in (
        (encode_frame({"kind": "scene", "ids": [5]}), "'scene' event is garbled"),
        (encode_frame({"kind": "news"}), "unknown event 'news'"),
        (encode_frame({"kind": "progress", "stage": "x", "fraction": 1, "asset": asset}, b"junk"), "object 3 is not a"),
        (b"HTTP/1.1 200 OK and so on", "not a scenegen frame"),
    ):
        with pytest.raises(InvalidInput, match=message):
            list(EventReader().feed(frame))
