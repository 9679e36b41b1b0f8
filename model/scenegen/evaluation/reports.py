"""Figures as text: the table on the screen, JSON, CSV. Knows nothing about how they were measured."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenegen.evaluation.images import AGAINST, MEASURES

COLUMNS = {
    "cd_s": "CD-S",
    "cd_o": "CD-O",
    "f_s": "F-S",
    "f_o": "F-O",
    "iou_b": "IoU-B",
    "iou_b_icp": "IoU-B icp",
    "voxel_iou": "voxel IoU",
    "translation_error": "t err",
    "rotation_error_deg": "R err deg",
    "scale_ratio_error": "s err",
    "seconds_per_asset": "s/asset",
}
"""JSON name of each figure and its heading."""


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One line for each row's name, one column for each known figure that any row has."""
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    width = max(len(name) for name in rows) if rows else 0
    lines = [" " * width + "".join(f"{COLUMNS[name]:>11}" for name in names)]
    for title, row in rows.items():
        lines.append(f"{title:<{width}}" + "".join(f"{_short(row.get(name, math.nan)):>11}" for name in names))
    return "\n".join(lines)


def image_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Two lines for each row's name that has image figures, one for each thing compared with; empty when none has.

    A column of a network that nobody brought says so.
    """
    rows = {title: row for title, row in rows.items() if any(f"psnr_{against}" in row for against in AGAINST)}
    if not rows:
        return ""
    names = {f"{title}, {word}": (row, ending) for title, row in rows.items() for ending, word in AGAINST.items()}
    width = max(map(len, names))
    lines = [" " * width + "".join(f"{heading:>13}" for heading in MEASURES.values())]
    for name, (row, ending) in names.items():
        values = [row.get(f"{measure}_{ending}") for measure in MEASURES]
        cells = ["no weights" if value is None else _short(value) for value in values]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON; what is undefined (NaN) becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_defined(figures), indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that share their first row's columns or lack some; undefined (NaN) stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({k: "" if _undefined(v) else v for k, v in row.items()} for row in rows)


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _defined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _defined(v) for k, v in value.items()}
    return None if _undefined(value) else value


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
