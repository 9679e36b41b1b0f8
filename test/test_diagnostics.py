"""What /diagnostics says about topics, and how the first status is made of the others."""

from __future__ import annotations

import pytest
from builtin_interfaces.msg import Time

from scenegen_ros import diagnostics
from scenegen_ros.diagnostics import Level, LogLine, Problems, Status, TopicMonitor, diagnostic_array, summary

MS = 1_000_000
WELL = Status("masks", Level.OK, "30.0 Hz")
SILENT = Status("image", Level.WARN, "nobody publishes it")
LOSSY = Status("depth", Level.WARN, "frames are lost", blocks=False)
FAILED = Status("generation", Level.ERROR, "the last one failed: disk")
DOWN = Status("server", Level.ERROR, "does not answer")


def heard(every_s: float, stamp_every_ms: float, count: int, start_s: float = 100.0) -> tuple[TopicMonitor, float]:
    monitor = TopicMonitor("image")
    for i in range(count):
        monitor.heard(round(i * stamp_every_ms * MS), start_s + i * every_s)
    return monitor, start_s + (count - 1) * every_s


def test_a_topic_that_speaks_as_it_should() -> None:
    monitor, now_s = heard(1 / 30, 1000 / 30, 90)
    status = monitor.status(1, now_s)
    assert (status.level, status.message) == (Level.OK, "30.0 Hz")
    assert status.values["messages"] == 90


def test_frames_that_arrive_far_below_the_cameras_rate() -> None:
    monitor = TopicMonitor("image")
    for i in (0, 1, *range(10, 100, 9)):  # of a camera at 30 Hz, about every ninth comes through
        monitor.heard(i * 33 * MS, 100 + i / 30)
    status = monitor.status(1, 103.0)
    assert status.level == Level.WARN
    assert "sent at about 30.3 Hz: frames are lost" in status.message and "fastdds.xml" in status.message


def test_silence_nobody_and_what_is_not_needed() -> None:
    assert "nobody publishes it" in TopicMonitor("masks").status(0, 5.0).message
    assert "1 publisher(s) but has never said anything" in TopicMonitor("masks").status(1, 5.0).message
    monitor, now_s = heard(0.1, 100, 5)
    assert "has been silent for 7 s" in monitor.status(1, now_s + 7).message
    optional = TopicMonitor("depth", needed=False)
    assert optional.status(0, 5.0).level == Level.OK
    assert optional.status(1, 5.0).level == Level.WARN  # published, so it is waited for


def test_a_topic_that_speaks_seldom_is_waited_for_longer() -> None:
    segmentation, now_s = heard(4.0, 4000, 5)
    assert segmentation.status(1, now_s + 11).level == Level.OK
    assert "has been silent for 13 s" in segmentation.status(1, now_s + 13).message
    lost, now_s = heard(300.0, 300_000, 5)
    assert lost.status(1, now_s + 31).level == Level.WARN


def test_a_qos_problem_is_told_until_the_publisher_is_gone_or_messages_come() -> None:
    monitor, now_s = heard(0.1, 100, 5)
    monitor.qos_problem = "a publisher of /image offers ..."
    assert monitor.status(1, now_s).level == Level.OK
    assert monitor.status(1, now_s + 10) == Status(
        "image", Level.ERROR, monitor.qos_problem, monitor.status(1, now_s + 10).values
    )
    assert "nobody publishes" in monitor.status(0, now_s + 10).message


def test_the_first_status_answers_what_it_waits_for() -> None:
    def message(state: str, *stages: Status, working_on: str = "") -> str:
        return summary(state, stages, working_on, "ready").message

    assert message("active", WELL) == "ready"
    assert message("active", WELL, SILENT, DOWN, FAILED) == (
        "waiting for image: nobody publishes it; server: does not answer; generation: the last one failed: disk"
    )
    assert message("active", WELL, FAILED) == "ready; generation: the last one failed: disk"
    assert message("active", WELL, working_on="generating: x (5%)") == "generating: x (5%)"
    assert "masks" not in message("active", WELL, SILENT)
    assert message("active", LOSSY) == "ready; depth: frames are lost"
    assert message("active", LOSSY, SILENT) == "waiting for image: nobody publishes it", "this stops everything"
    assert message("unconfigured") == "unconfigured: waiting for the configure transition"
    assert message("inactive", DOWN) == "inactive: waiting for the activate transition; server: does not answer"
    assert summary("active", [WELL, SILENT], "", "ready").level == Level.WARN


def test_problems_are_told_once_each_with_how_often_and_how_long_ago_and_logged_now_and_then() -> None:
    problems = Problems()
    assert problems.status(1.0).message == "none so far"
    assert problems.add("image says 64x48 at 1.5 s", 1.0)
    assert problems.add("TF lags", 2.0)
    assert not problems.add("image says 64x48 at 2.5 s", 3.0)
    assert problems.add("image says 64x48 at 99.5 s", 12.0), "again after a while"
    status = problems.status(15.0)
    assert status.level == Level.OK
    assert status.message == "the last one, 3 s ago, 3 times: image says 64x48 at 99.5 s"
    assert status.values == {"1: 3 s ago, 3 times": "image says 64x48 at 99.5 s", "2: 13 s ago": "TF lags"}
    for i in range(20):
        problems.add("abcdefghijklmnopqrstu"[i], 20.0)
    assert len(problems.status(21.0).values) == 8


def test_the_log_has_one_line_when_what_is_said_changes_and_now_and_then_while_not_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagnostics, "_NEXT_LINE_S", 5.0)  # tests of the node are in more of a hurry (ros_helpers.py)
    log = LogLine()
    well, waiting = Status("node", Level.OK, "ready"), Status("node", Level.WARN, "waiting for image: silent for 3 s")
    image = Status("image", Level.WARN, "silent for 3 s")
    assert log.due([well, WELL], 100.0) == "ready [masks: 30.0 Hz]"
    assert not log.due([waiting, image, WELL], 104.0), "what lasts a moment only is not worth a line"
    assert log.due([waiting, image, WELL], 105.0) == "waiting for image: silent for 3 s [image: ! | masks: 30.0 Hz]"
    later = Status("node", Level.WARN, "waiting for image: silent for 20 s")
    assert not log.due([later, image, WELL], 120.0), "only figures changed"
    assert log.due([later, image, WELL], 136.0)
    assert log.due([well, WELL], 142.0) and not log.due([well, WELL], 1000.0)


def test_the_message() -> None:
    array = diagnostic_array([Status("views", Level.ERROR, "none", {"kept": 0})], Time(sec=3))
    (status,) = array.status
    assert (array.header.stamp.sec, status.name, status.level, status.message) == (3, "scenegen: views", b"\2", "none")
    assert [(v.key, v.value) for v in status.values] == [("kept", "0")]
