"""Commands of `scenegen` about checkpoints: convert, download, inspect, selftest."""

from __future__ import annotations

import argparse

from scenegen.commands import convert, download, inspect, selftest


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register all of them."""
    for command in (download, inspect, convert, selftest):
        command.add_parser(commands)
