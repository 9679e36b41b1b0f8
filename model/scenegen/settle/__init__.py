"""Scenes brought to rest: who stands on what, penetrations undone, weights carried; and a test whether it holds.

Measured and generated things float and sink by millimetres. `settle` moves them as little as it takes until they stand
(rest.py); `drop` lets MuJoCo run on a scene as it is exported and says how far things drift; `settle_folder` does both
to a scene on disk. Knows nothing about torch, ROS, or how a scene was made.
"""

from scenegen.settle.drop import Drift, drop
from scenegen.settle.scene import Settled, settle
from scenegen.settle.stored import Outcome, settle_folder

__all__ = ["Drift", "Outcome", "Settled", "drop", "settle", "settle_folder"]
