"""Scenes brought to rest: who stands on what, penetrations undone, weights carried; and a test whether it holds.

Measured and generated things float and sink by millimetres. `settle` moves them as little as it takes until they stand
(rest.py); `drop` lets MuJoCo run on a scene as it is exported and says how far things drift. Knows bodies in metres
with z up; knows nothing about files.
"""

from scenegen.settle.drop import Drift, drop
from scenegen.settle.scene import Settled, settle

__all__ = ["Drift", "Settled", "drop", "settle"]
