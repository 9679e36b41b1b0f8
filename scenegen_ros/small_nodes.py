"""What the small nodes share, the simulated camera and the viewer: parameters fixed at the start, and being run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import try_shutdown

from scenegen.scene import InvalidInput


def fixed_parameter(node: Node, name: str, default: object, description: str) -> Any:
    """Declares a read-only parameter and returns its value."""
    descriptor = ParameterDescriptor(description=description, read_only=True)
    return node.declare_parameter(name, default, descriptor).value


def run(name: str, make: Callable[[], Node], args: list[str] | None) -> int:
    """Runs a node until it is interrupted; 1, with the reason, when it cannot be made."""
    rclpy.init(args=args)
    try:
        rclpy.spin(make())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except InvalidInput as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    finally:
        try_shutdown()
    return 0
