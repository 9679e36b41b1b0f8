"""One mesh cut into convex pieces by coacd, in a process of its own: `coacd_process.py IN.npz OUT.npz`.

Imports only numpy and coacd, for it is started once per mesh. A native crash ends this process and nothing else.
"""

from __future__ import annotations

import json
import os
import sys

import coacd
import numpy as np


def main(source: str, target: str) -> None:
    """IN: vertices [V, 3], faces [F, 3], preset (JSON). OUT: vertices_0, faces_0, vertices_1 ... of the pieces."""
    coacd.set_log_level("error")
    with np.load(source) as given:
        mesh = coacd.Mesh(given["vertices"], given["faces"])
        preset = json.loads(str(given["preset"]))
    pieces = coacd.run_coacd(mesh, **preset)
    arrays = {f"vertices_{i}": vertices for i, (vertices, _) in enumerate(pieces)}
    arrays |= {f"faces_{i}": faces for i, (_, faces) in enumerate(pieces)}
    with open(target + ".part", "wb") as file:
        np.savez(file, **arrays)
    os.replace(target + ".part", target)


if __name__ == "__main__":
    main(*sys.argv[1:])
