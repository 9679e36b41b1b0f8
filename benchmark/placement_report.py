"""The table and the picture of docs/placement.md, from rows that benchmark.placement wrote as JSON.

`python -m benchmark.placement_report DRAWING.png ROW.json ...`: prints the table; draws how errors are spread for each
row, and how often an object of a confidence stands where it should (all rows together).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

Row = dict[str, Any]


def name(row: Row) -> str:
    """What a row measures."""
    views = "1 view" if row["views"] == 1 else f"{row['views']} views"
    single = ", single objects" if row["count"] == [1, 1] else ""
    return f"{row['shapes']}, {views}{single}{', gravity' if row['gravity'] else ''}"


def line(row: Row, method: str | None = None) -> str:
    """One line of the table: of place_scene, or of a baseline."""
    figures = row[method] if method else row
    position, rotation, size = (figures[key] for key in ("position_m", "rotation_deg", "size_ratio"))
    cells = [
        f"{name(row)}" if not method else f"  {method.replace('_', ' ')}",
        f"{row['scenes']} / {row['objects']}",
        f"{1e3 * position['median']:.1f} / {1e3 * position['p95']:.1f}",
        f"{rotation['median']:.1f} / {rotation['p95']:.1f}",
        f"{100 * (size['median'] - 1):.1f} / {100 * (size['p95'] - 1):.1f}",
        f"{100 * figures['success']:.1f} %",
        f"{100 * figures['add_s']['within_3_percent']:.1f} %",
        f"{figures['seconds']:.2f} / {figures['seconds_p95']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def draw(rows: list[Row], path: Path) -> None:
    """Shares of objects by error for each row, and the reliability of confidences."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.6))
    for axis, key, unit, limit, factor in (
        (axes[0], "position_m", "position error, mm", 20, 1e3),
        (axes[1], "rotation_deg", "rotation error, degrees", 5, 1),
    ):
        for row in rows:
            values = np.sort(np.array(row["each"][key])) * factor
            axis.plot(values, np.arange(1, len(values) + 1) / len(values), label=name(row))
        axis.axvline(limit, color="black", linewidth=0.6, linestyle=":")
        axis.set(
            xscale="log", xlim=(0.05 if factor == 1 else 0.1, 200), ylim=(0, 1), xlabel=unit, ylabel="share of objects"
        )
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7, loc="lower right")
    confidence = np.concatenate([row["each"]["confidence"] for row in rows])
    position, rotation = (np.concatenate([row["each"][key] for row in rows]) for key in ("position_m", "rotation_deg"))
    near = (position < 0.02) & (rotation < 5)
    which = np.clip((confidence * 10).astype(int), 0, 9)
    shown = [b for b in range(10) if (which == b).sum() >= 3]
    means = np.array([confidence[which == b].mean() for b in shown])
    shares = np.array([near[which == b].mean() for b in shown])
    counts = np.array([(which == b).sum() for b in shown])
    axes[2].plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
    axes[2].errorbar(means, shares, yerr=np.sqrt(shares * (1 - shares) / counts), marker="o", capsize=3)
    for x, y, count in zip(means, shares, counts, strict=True):
        axes[2].annotate(str(count), (x, y), xytext=(5, -10), textcoords="offset points", fontsize=7)
    axes[2].set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="confidence", ylabel="share within 2 cm and 5 degrees")
    axes[2].grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Print the table of the rows named, draw them."""
    drawing, *files = sys.argv[1:]
    rows = [json.loads(Path(file).read_text()) for file in files]
    for row in rows:
        print(line(row))
    for row in rows:
        print(line(row, "scaled_icp") + "\n" + line(row, "cpd"))
    draw(rows, Path(drawing))


if __name__ == "__main__":
    main()
