"""Commands of `scenegen` about checkpoints: convert, download, inspect."""

from __future__ import annotations

import argparse

from scenegen.commands import convert, download, inspect


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register all of them."""
    for command in (download, inspect, convert):
        command.add_parser(commands)
