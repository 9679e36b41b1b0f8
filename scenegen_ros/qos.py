"""The qualities of service in use here, each in one place."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What holds until the next one: who comes late gets the newest."""
TF = QoSProfile(depth=100)
"""/tf, as tf2 does."""
TF_STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""/tf_static, as tf2 does."""


def sensor() -> QoSProfile:
    """What cameras send: it hears every publisher, and is as deep as a busy moment of half a second needs at 30 Hz.

    A new one each time, for qos_overrides are written into it.
    """
    return QoSProfile(depth=15, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
