"""The benchmark's figures as a table for the terminal, as a page, and as a picture. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from benchmark.sampling import Comparison  # noqa: E402

_PAGE = """\
# Benchmark

Written by `make benchmark`. Seconds and shares are of this machine; ratios were measured side by side in one run and
carry over.

{tables}
![Time of each stage of a job without generation; sampling time with and without exact savings](benchmark.png)

## How it is measured

- **Ingest**: a camera process publishes prepared messages, best effort as camera drivers do, with camera info and TF,
  and moves at 0.21 m/s, so that two views a second are due. The node, a process of its own on `config/fastdds.xml`,
  listens with its default parameters but for `max_views` (16, the most it takes) and `depth` (required).
  A frame is lost when the node could not pair its image, masks, depth and camera info, or had no TF at its stamp
  (`/diagnostics`). CPU time is that of the whole node process from the first frame to the last.
- **Trigger to published**: from sending the action goal to having its result and the scene on `~/scene`. Simulated
  camera (640x480), server and node are processes of their own; the server answers at once with the true scene. "sending
  views" lasts until the server answers, "assemble" until its answer is read, "placing" is the registration against
  depth, "saving" files and announcement.
- **Sampling**: the same weights, noise and condition sampled with and without the exact savings in turn, the least
  of three, in time of one core. "An eighth of full size" has random weights and an eighth of the published model's
  width and tokens, which leaves every part of a pass its share of the operations; its 25 steps are put together from
  five. "By operations" is what counting them leads to expect.
- **Meshes**: the sphere's fields are set in the structure's voxels at its surface, as a decoder leaves them, with
  random weights, displacements and colours; "dense" evaluates the same formulas on arrays of the whole grid, in a
  process of its own, and gives the same faces; both are given in time of the processor. Memory is the process's peak
  while it extracts. Steps of finishing take the least of three runs.
- **Exports**: five objects with textures, least of three runs in processor time; the visual meshes are ten thousand
  faces each, what collides is their hulls. How far settled things drift has a benchmark of its own:
  `python -m benchmark.settle --help`.
- **Placement** has a benchmark of its own: `python -m benchmark.placement --help`.
"""


@dataclass(frozen=True)
class Section:
    """A heading and its figures: (what, figure)."""

    heading: str
    rows: Sequence[tuple[str, str]]


def table(sections: Sequence[Section]) -> str:
    """For a terminal."""
    width = max(len(what) for section in sections for what, _ in section.rows)
    lines = []
    for section in sections:
        lines += [section.heading, *(f"  {what:<{width}}  {figure}" for what, figure in section.rows), ""]
    return "\n".join(lines).rstrip()


def markdown(sections: Sequence[Section]) -> str:
    """docs/benchmark.md."""
    tables = []
    for section in sections:
        rows = "".join(f"| {what} | {figure} |\n" for what, figure in section.rows)
        tables.append(f"## {section.heading}\n\n| what | figure |\n| --- | --- |\n{rows}\n")
    return _PAGE.format(tables="".join(tables).rstrip("\n") + "\n")


def draw(path: Path, stages_s: Mapping[str, float], comparisons: Sequence[Comparison]) -> None:
    """docs/benchmark.png. Left: seconds per stage. Right: sampling time as a share of that without savings."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.3), layout="constrained")
    left.barh(list(stages_s), [1e3 * s for s in stages_s.values()], color="tab:blue")
    left.invert_yaxis()
    left.set_xlabel("median milliseconds")
    left.set_title("A job without generation")
    names = [comparison.name for comparison in comparisons]
    right.barh(names, [comparison.share for comparison in comparisons], color="tab:green", label="measured")
    counted = [(c.name, c.counted_share) for c in comparisons if c.counted_share is not None]
    right.plot([share for _, share in counted], [name for name, _ in counted], "k|", ms=18, label="by operations")
    right.axvline(1, color="grey", linestyle="--", label="without savings")
    right.invert_yaxis()
    right.set_xlim(0, 1.15)
    right.set_xlabel("time as a share of that without exact savings")
    right.set_title("Structure sampling with exact savings")
    figure.legend(loc="outside lower right", ncols=3, fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
