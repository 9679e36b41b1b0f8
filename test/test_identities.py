"""Ids that mean the same in every kept view, while views come, go and are replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_association import views

from benchmark.association import right_share, spoiled
from scenegen.prompts import Prompt, PromptedView
from scenegen.scene import InvalidInput, View
from scenegen_ros.pairing import Message, MessageSet
from scenegen_ros.parameters import Parameters
from scenegen_ros.view_collector import ViewCollector


class Bench:
    """A collector with association by overlap that is shown views one by one."""

    def __init__(self, **parameters: Any) -> None:
        self.shown: dict[int, View] = {}
        self.collector = ViewCollector(
            Parameters(association="overlap", **parameters),
            self.decode,
            lambda _, stamp_ns: self.shown[stamp_ns].T_world_camera,
            lambda _: None,
            lambda _: None,
        )

    def decode(self, messages: MessageSet) -> View:
        return replace(self.shown[messages.stamp_ns], stamp_ns=messages.stamp_ns)

    def see(self, view: View) -> int:
        """One frame; its stamp."""
        stamp_ns = (len(self.shown) + 1) * 10**9
        self.shown[stamp_ns] = view
        for topic in ("image", "camera_info", "masks"):
            self.collector.add(topic, Message(stamp_ns, "camera", b""), stamp_ns / 1e9)
        return stamp_ns

    def masks(self) -> dict[int, np.ndarray]:
        return {k.view.stamp_ns: k.view.masks for k in self.collector.views()}


def permuted(seed: int = 1) -> list[View]:
    return spoiled(list(views()), "ids alone", np.random.default_rng(seed))


def test_every_view_gets_the_ids_of_the_first_ones() -> None:
    bench, given = Bench(), permuted()
    told = []
    bench.collector.on_common_ids = told.append
    stamps = [bench.see(view) for view in given]
    masks = bench.masks()
    right, total = right_share(list(views()), given, tuple(masks[stamp] for stamp in stamps))
    assert right == total
    np.testing.assert_array_equal(masks[stamps[0]], given[0].masks, "the first view's ids are everyone's")
    assert [k.view.stamp_ns for k in told] == stamps
    for kept in bench.collector.views():
        assert kept.ids == frozenset(kept.view.instance_ids) == kept.aim.ids  # type: ignore[union-attr]
        own = bench.shown[kept.view.stamp_ns].masks
        assert set(kept.common) == set(np.unique(own[own > 0]))


def test_ids_survive_the_views_that_gave_them() -> None:
    bench, given = Bench(max_views=2), permuted()
    first = [bench.see(view) for view in given[:2]]
    name = {int(true): int(bench.masks()[first[0]][views()[0].masks == true][0]) for true in views()[0].instance_ids}
    last = [bench.see(view) for view in given[2:]]
    assert bench.collector.count == 2 and not set(first) <= set(bench.masks())
    checked = 0
    for v, stamp in enumerate(last, 2):
        for true in views()[v].instance_ids:
            if stamp in bench.masks() and (views()[v].masks == true).sum() > 100:
                assert np.median(bench.masks()[stamp][views()[v].masks == true]) == name[true]
                checked += 1
    assert checked >= 3


def test_a_view_that_replaces_the_only_one_keeps_the_ids() -> None:
    bench = Bench()
    first, again = permuted(1)[0], permuted(2)[0]
    assert (first.masks != again.masks).any()
    stamp = bench.see(first)
    before = bench.masks()[stamp]
    later = bench.see(again)
    bench.collector.refresh()
    np.testing.assert_array_equal(bench.masks()[later], before)
    captured = bench.collector.capture(later / 1e9)
    assert captured.view.stamp_ns == later and captured.ids == frozenset(np.unique(before[before > 0]))


def test_clear_forgets_names() -> None:
    bench = Bench()
    first, again = permuted(1)[0], permuted(2)[0]
    bench.see(first)
    bench.collector.clear()
    stamp = bench.see(again)
    np.testing.assert_array_equal(bench.masks()[stamp], again.masks)


@pytest.mark.parametrize("lacking", ["depth_m", "intrinsics"])
def test_without_depth_it_says_what_to_do(lacking: str) -> None:
    bench = Bench()
    bench.see(replace(permuted()[0], **{lacking: None}))
    assert bench.collector.count == 0
    assert "association is overlap" in bench.collector.problem and "set association to id" in bench.collector.problem
    with pytest.raises(InvalidInput):
        bench.collector.capture(1.0)
    alone = Bench(fixed_frame="")
    alone.see(replace(permuted()[0], **{lacking: None}))
    assert alone.collector.count == 1, "one view needs nobody's ids"


def test_views_that_are_still_to_be_segmented_are_left_alone() -> None:
    bench, view = Bench(), views()[0]
    values = {name: getattr(view, name) for name in ("image", "masks", "intrinsics", "T_world_camera")}
    bench.see(PromptedView(**values, prompts=(Prompt(7, (10.0, 10.0, 50.0, 50.0)),)))
    (kept,) = bench.collector.views()
    assert isinstance(kept.view, PromptedView) and kept.ids == {7} and not kept.common
