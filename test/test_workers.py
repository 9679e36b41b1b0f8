"""Processes beside the model: calls run in them, what goes wrong comes back, and they can be stopped and go on."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from serving import WAIT_S, wait_until

from scenegen.generator.workers import WorkerDied, Workers

MODEL = Path(__file__).parent.parent / "model"


def test_calls_run_side_by_side_in_processes_that_are_kept() -> None:
    workers = Workers(2)
    first, second = workers.submit(np.linalg.norm, np.array([3.0, 4.0])), workers.submit(os.getpid)
    assert first.result(WAIT_S) == 5.0
    others = {second.result(WAIT_S), *(workers.submit(os.getpid).result(WAIT_S) for _ in range(4))}
    assert os.getpid() not in others and len(others) <= 2


def test_arguments_may_be_on_their_way() -> None:
    workers, argument, wrong = Workers(1), Future[float](), Future[float]()
    root = workers.submit(math.sqrt, argument)
    argument.set_result(9.0)
    assert root.result(WAIT_S) == 3.0
    wrong.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        workers.submit(math.sqrt, wrong).result(WAIT_S)


def test_finishing_a_mesh_loads_no_torch() -> None:
    code = "import sys, scenegen.generator.finishing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=MODEL)
    assert done.stdout.strip() == "False"


def test_an_error_comes_back_and_the_process_lives_on() -> None:
    workers = Workers(1)
    before = workers.submit(os.getpid).result(WAIT_S)
    with pytest.raises(ValueError, match="math domain error"):
        workers.submit(math.sqrt, -1.0).result(WAIT_S)
    assert workers.submit(os.getpid).result(WAIT_S) == before


def test_a_crash_fails_one_call_and_stopping_ends_what_runs() -> None:
    workers = Workers(1)
    with pytest.raises(WorkerDied):
        workers.submit(os.abort).result(WAIT_S)
    idle = workers.submit(os.getpid).result(WAIT_S)
    os.kill(idle, signal.SIGKILL)
    os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
    assert workers.submit(os.getpid).result(WAIT_S) != idle, "one that died while it was idle costs nothing"
    running = workers.submit(time.sleep, WAIT_S)
    wait_until(running.running)
    wait_until(lambda: bool(workers._busy))
    workers.stop()
    with pytest.raises(WorkerDied):
        running.result(WAIT_S)
    assert workers.submit(math.sqrt, 4.0).result(WAIT_S) == 2.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_they_end_with_their_owner() -> None:
    workers = Workers(1)
    child = workers.submit(os.getpid).result(WAIT_S)
    del workers
    wait_until(lambda: not alive(child))


def test_a_script_without_a_main_guard_can_use_them_and_leaves_nothing_when_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from scenegen.generator.workers import Workers\n"
        "print(Workers(1).submit(os.getpid).result(), flush=True)\n"
        "workers = Workers(1)\n"
        "print(workers.submit(os.getpid).result(), flush=True)\n"
        "time.sleep(1000)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(MODEL)}
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    children = [int(owner.stdout.readline()) for _ in range(2)]
    assert alive(children[1])
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not any(alive(child) for child in children))
