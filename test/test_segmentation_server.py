"""Prompts over the wire: a real `scenegen serve --segmenter` process with random weights, and what can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ROOT
from segmenting import prompted_view, save_segmenter
from serving import WAIT_S, StubGenerator, running, view, wait_until
from test_client import in_thread
from test_server import http, wait_ready

from scenegen.client import GenerationFailed, SceneClient, ServerNotReady
from scenegen.prompts import Prompt, PromptedView
from scenegen.scene import Cancelled, InvalidInput, Progress, View
from scenegen.segmentation import Segmenter
from scenegen.server import Limits
from scenegen.wire import MEDIA_TYPE, FrameReader, encode_frame, encode_request

LEFT = Prompt(1, (4.0, 4.0, 30.0, 30.0), label="cup")
RIGHT = Prompt(2, (40.0, 10.0, 70.0, 40.0), inside=((50.5, 20.25),), outside=((1.0, 1.0),))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segmenter(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server process, as a person starts it."""
    path = tmp_path_factory.mktemp("server") / "s"
    command = [sys.executable, "-m", "scenegen.cli", "serve", "--unix", str(path), "--segmenter", str(weights)]
    process = subprocess.Popen(command, cwd=ROOT / "model")
    try:
        wait_ready(f"unix:{path}", process)
        yield f"unix:{path}"
    finally:
        process.terminate()
        assert process.wait(WAIT_S) == 0


def views() -> list[PromptedView]:
    """Two prompted objects in a view, and two views more to find them in."""
    return [
        prompted_view((RIGHT, LEFT), 0, stamp_ns=5),
        prompted_view((), 1, (40, 64), stamp_ns=9),
        prompted_view((replace(LEFT, box=(8.0, 8.0, 36.0, 36.0)),), 2, stamp_ns=1),
    ]


def test_a_server_process_makes_the_masks_that_its_weights_make_here(server: str, weights: Path) -> None:
    heard: list[Progress] = []
    made = SceneClient(server).segment(views(), on_progress=heard.append)
    here = Segmenter.from_pretrained(weights).segment(views())
    for there, mine, given in zip(made, here, views(), strict=True):
        assert type(there) is View and there.masks.any()
        np.testing.assert_array_equal(there.masks, mine.masks)
        np.testing.assert_array_equal(there.depth_m, given.depth_m)
        assert there.stamp_ns == given.stamp_ns
    assert [p.fraction for p in heard if p.stage == "segmentation"] == [(i + 1) / 6 for i in range(6)]


def test_what_a_server_refuses_to_segment(server: str) -> None:
    client = SceneClient(server)
    with pytest.raises(InvalidInput, match="none of 1 views has a prompt: give a box or a point"):
        client.segment([prompted_view(())])
    (header, _), image = FrameReader().feed(b"".join(encode_request(views()[:1], 0, None, compact=False)))
    for damage, word in (
        ({"box": [4, 4, 400, 30]}, "object 2 lies at (400, 30), outside its image of 80 x 48 pixels"),
        ({"box": [4, 4, 30]}, "view 0 has a prompt that cannot be read"),
        ({"id": "cup"}, "view 0 has a prompt that cannot be read"),
        ({"inside": 3}, "view 0 has a prompt that cannot be read"),
        ({"id": 1}, "ids [1, 1]"),
    ):
        damaged = json.loads(json.dumps(header))
        damaged["views"][0]["prompts"][0] |= damage
        answer = post(server, encode_frame(damaged) + encode_frame(*image))
        assert answer.status_code == 422 and word in answer.json()["error"]
    answer = post(server, b"".join(encode_request([view()], 0, None, compact=False)))
    assert answer.status_code == 422 and "a view has masks and no prompts" in answer.json()["error"]
    with pytest.raises(InvalidInput, match="segment the views first"):
        client.generate(views()[:1])


def post(address: str, body: bytes) -> httpx.Response:
    with http(address) as client:
        return client.post("/v1/segmentations", content=body, headers={"Content-Type": MEDIA_TYPE})


class StubSegmenter:
    """Waits to be told, then gives every prompt one pixel; or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.started, self.go = threading.Event(), threading.Event()
        self.sees_cancel: Callable[[], bool] = lambda: False

    def segment(
        self,
        views: Sequence[PromptedView],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[View, ...]:
        assert cancelled is not None
        self.sees_cancel = cancelled
        self.started.set()
        assert self.go.wait(WAIT_S)
        if self.failure is not None:
            raise self.failure
        if cancelled():
            raise Cancelled
        planes = [np.zeros(v.image.shape[:2], np.int32) for v in views]
        for given, plane in zip(views, planes, strict=True):
            plane.ravel()[: len(given.prompts)] = given.instance_ids
        return tuple(given.segmented(plane) for given, plane in zip(views, planes, strict=True))


def test_a_server_without_a_segmenter_names_the_option(tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as address:
        with pytest.raises(ServerNotReady, match="no segmenter: start it with `scenegen serve --segmenter FOLDER`"):
            SceneClient(address).segment(views())


def test_ids_of_any_size_and_limits_hold(tmp_path: Path) -> None:
    segmenter = StubSegmenter()
    segmenter.go.set()
    limits = Limits(objects=2)
    with running(StubGenerator(), tmp_path / "s", segmenter=segmenter, limits=limits) as address:
        client = SceneClient(address)
        (made,) = client.segment([prompted_view((replace(LEFT, id=2**31 - 1),))])
        assert made.instance_ids == (2**31 - 1,)
        three = tuple(replace(LEFT, id=i) for i in (1, 2, 3))
        with pytest.raises(Exception, match="3 objects, the limit is 2"):
            client.segment([prompted_view(three)])


def test_a_cancelled_segmentation_stops_and_the_server_goes_on(tmp_path: Path) -> None:
    segmenter = StubSegmenter()
    with running(StubGenerator(), tmp_path / "s", segmenter=segmenter) as address:
        asked = threading.Event()
        with in_thread(lambda: SceneClient(address).segment(views(), cancelled=asked.is_set)) as result:
            assert segmenter.started.wait(WAIT_S)
            asked.set()
            with pytest.raises(Cancelled):
                result()
        wait_until(segmenter.sees_cancel)
        segmenter.go.set()
        assert SceneClient(address).segment(views())[0].instance_ids == (1, 2)
        segmenter.failure = RuntimeError("CUDA out of memory")
        with pytest.raises(GenerationFailed, match="CUDA out of memory"):
            SceneClient(address).segment(views())
        assert SceneClient(address).generate([view()]).assets, "one queue for both"
