"""The parameter table: what is generated from it is up to date, and what ROS is told is what it says."""

from __future__ import annotations

from dataclasses import fields

import pytest
import rclpy
import yaml
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from scenegen.scene import InvalidInput
from scenegen_ros import parameters
from scenegen_ros.parameters import Parameters


@pytest.mark.parametrize("path", parameters.FILES, ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path) -> None:  # type: ignore[no-untyped-def]
    assert path.read_text() == parameters.FILES[path](), "run: python -m scenegen_ros.parameters --write"


def test_the_yaml_holds_every_default() -> None:
    (sections,) = yaml.safe_load(parameters.yaml_text()).values()
    defaults = {row.name: row.default for row in fields(Parameters)}
    assert sections["ros__parameters"] == defaults | {"known_size": list(defaults["known_size"])}


def test_what_is_declared_is_what_is_read(ros_context: rclpy.Context) -> None:
    node = Node("table", context=ros_context, parameter_overrides=[Parameter("max_views", value=3)])
    parameters.declare(node)
    assert parameters.read(node) == Parameters(max_views=3)
    for row in fields(Parameters):
        descriptor = node.describe_parameter(row.name)
        assert descriptor.description == row.metadata["description"]
        assert descriptor.read_only == row.metadata["read_only"]
    node.destroy_node()


def test_a_value_out_of_range_is_refused_at_start(ros_context: rclpy.Context) -> None:
    node = Node("table", context=ros_context, parameter_overrides=[Parameter("max_views", value=0)])
    with pytest.raises(InvalidParameterValueException):
        parameters.declare(node)
    node.destroy_node()


def test_known_sizes_are_metres_by_label(ros_context: rclpy.Context) -> None:
    given = ["mug=0.095", "tea = pot = 0.2", ""]
    node = Node("table", context=ros_context, parameter_overrides=[Parameter("known_size", value=given)])
    parameters.declare(node)
    assert parameters.read(node).known_sizes == {"mug": 0.095, "tea = pot": 0.2}
    node.destroy_node()
    assert Parameters().known_sizes == {}


@pytest.mark.parametrize("entry", ["mug", "mug=", "mug=9cm", "mug=-0.1", "mug=nan", "mug=inf", "=0.1"])
def test_a_size_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(InvalidInput, match=f"known_size '{entry}'.*mug=0.095"):
        Parameters(known_size=("can=0.12", entry))
    with pytest.raises(InvalidInput, match="known_size"):
        parameters.check({"known_size": [entry]})
