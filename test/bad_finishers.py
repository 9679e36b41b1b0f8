"""Stand-ins for finishing.finish that go wrong, in a module that a worker process loads quickly."""

from __future__ import annotations

import os
import time
from typing import Any


def crash(*args: Any) -> None:
    """As a native library does."""
    os.abort()


def hang(*args: Any) -> None:
    """Longer than any test."""
    time.sleep(1000)
