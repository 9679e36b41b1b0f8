"""ROS for tests: each in a domain of its own, on this machine only, and waits that end with what they wait for.

And one thread, for tests whose sums must come out alike.
"""

from __future__ import annotations

import fcntl
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import rclpy
    from rclpy.executors import Executor

ROOT = Path(__file__).resolve().parent.parent

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over other numbers of threads round differently, and Muon makes much of it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def own_domain(patch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS_DOMAIN_ID, 1 to 101, that no other test on this machine uses; processes started by the test inherit it."""
    for domain in (1 + (os.getpid() + step) % 101 for step in range(101)):
        with ExitStack() as held:
            try:
                lock = held.enter_context(open(Path(gettempdir()) / f"scenegen_ros_domain_{domain}", "w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # another run's, or another user's
                continue
            patch.setenv("ROS_DOMAIN_ID", str(domain))
            yield domain
            gc.collect()  # whatever still refers to a node keeps its DDS participant and up to 128 MB of shared memory
            return
    pytest.fail("101 tests hold every ROS domain of this machine")


@contextmanager
def own_context(domain: int) -> Iterator[rclpy.Context]:
    """An rclpy.Context in a domain; shut down afterwards."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    yield context
    context.try_shutdown()


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The test's own ROS domain."""
    with own_domain(monkeypatch) as domain:
        yield domain


@pytest.fixture
def ros_context(ros_domain: int) -> Iterator[rclpy.Context]:
    """An rclpy.Context in the test's own domain."""
    with own_context(ros_domain) as context:
        yield context


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Placing takes no time: ros_helpers.fast_place, for tests of everything else."""
    from ros_helpers import fast_place

    from scenegen_ros import generation

    monkeypatch.setattr(generation, "place_scene", fast_place)


def spin_until(executor: Executor, done: Callable[[], object], what: str, timeout_s: float = 250.0) -> None:
    """Spins until done() is true. Fails the test, naming what it waited for, after timeout_s seconds."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s in vain for {what}")
        executor.spin_once(timeout_sec=0.05)
