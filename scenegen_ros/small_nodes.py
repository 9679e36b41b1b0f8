"""What the small nodes share, the simulated camera and the viewer: parameters fixed at the start, and being run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import try_shutdown

from scenegen.scene import InvalidInput

Number = TypeVar("Number", int, float)


def fixed_parameter(node: Node, name: str, default: object, description: str) -> Any:
    """Declares a read-only parameter and returns its value."""
    descriptor = ParameterDescriptor(description=description, read_only=True)
    return node.declare_parameter(name, default, descriptor).value


def positive_parameter(node: Node, name: str, default: Number, description: str) -> Number:
    """The same for a number. InvalidInput when it is not above zero."""
    value: Number = fixed_parameter(node, name, default, description)
    if not value > 0:
        raise InvalidInput(f"parameter {name} is {value}: it must be above zero")
    return value


def run(name: str, make: Callable[[], Node], args: list[str] | None) -> int:
    """Runs a node until it is interrupted; 1, with the reason, when it cannot be made."""
    rclpy.init(args=args)
    try:
        rclpy.spin(make())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (InvalidInput, ParameterException) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    finally:
        try_shutdown()
    return 0
