"""Tables of a run, on disk: losses of every step, held-out metrics, their plot, and the same for TensorBoard.

Knows nothing about training.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scenegen.training.events import EventFile


class Log:
    """Loss and validation tables of a run, on disk, and their plot. Rows after ``start`` (of a killed run) go."""

    def __init__(self, folder: Path, start: int) -> None:
        self.folder = folder
        self.rows = [r for r in _read_rows(folder / "log.csv") if r["step"] < start]
        self.validation = [r for r in _read_rows(folder / "validation.csv") if r["step"] <= start]
        self.smooth = float("nan")
        self._events = EventFile(folder / "events.out.tfevents.scenegen")
        self._told = [0, 0]

    def train(self, step: int, terms: dict[str, float]) -> None:
        """Note the terms of one step."""
        self.rows.append({"step": step, **terms})
        value = terms["loss"]
        self.smooth = value if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * value

    def validate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note held-out metrics and write everything."""
        self.validation.append({"step": step, **metrics})
        self.flush()
        self.plot()

    def flush(self) -> None:
        """Write the tables."""
        for name, rows in (("log.csv", self.rows), ("validation.csv", self.validation)):
            if rows:
                part = self.folder / f"{name}.part"
                with open(part, "w", newline="") as file:
                    writer = csv.DictWriter(file, fieldnames=_names(rows), restval="")
                    writer.writeheader()
                    writer.writerows(rows)
                os.replace(part, self.folder / name)
        for place, (prefix, rows) in enumerate((("training", self.rows), ("held_out", self.validation))):
            self._events.append(prefix, rows[self._told[place] :])
            self._told[place] = len(rows)

    def plot(self) -> None:
        """losses.png: each loss term (running mean) and each validation metric over steps."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        groups = [(self.rows, 50, "training"), (self.validation, 1, "held out")]
        panels = [(rows, w, t, k) for rows, w, t in groups if rows for k in _names(rows) if k != "step"]
        columns = min(4, len(panels))
        lines = math.ceil(len(panels) / columns)
        figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 2.5 * lines), squeeze=False)
        for axis, (rows, width, title, key) in zip(axes.flat, panels, strict=False):
            steps = np.array([r["step"] for r in rows])
            values = np.array([r.get(key, np.nan) for r in rows], dtype=float)
            width = min(width, len(values))
            axis.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), lw=1)
            axis.set_title(f"{key} ({title})", fontsize=8)
            axis.tick_params(labelsize=7)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        figure.tight_layout()
        figure.savefig(self.folder / "losses.png", dpi=90)
        plt.close(figure)


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Every column's name: a run may be resumed with another term in its loss."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            {k: int(v) if k == "step" else float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)
        ]
