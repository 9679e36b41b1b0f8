"""`scenegen convert`: a pickled checkpoint (.pt, .pth) to safetensors, in a process of its own.

The pickle is opened with torch's `weights_only`, which builds nothing but tensors and plain containers, by a Python
that gets neither the environment (with its tokens) nor the search path of this one. That is no sandbox: it is a second
line behind `weights_only`. Knows nothing about models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from scenegen.scene import InvalidInput

SUFFIXES = (".pt", ".pth", ".bin")

_CONVERTER = """
import sys
import torch
from safetensors.torch import save_file

source, target = sys.argv[1:]
version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
if version < (2, 10):
    sys.exit(f"torch {torch.__version__} is too old to open a pickle safely: 2.10 or newer is needed")
try:
    tensors = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
except Exception as error:
    sys.exit(f"torch refused it: {str(error).splitlines()[0]}")
for key in ("state_dict", "model"):
    if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
        tensors = tensors[key]
if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
    sys.exit("it holds something else than tensors by name")
save_file({str(name): value.detach().clone().contiguous() for name, value in tensors.items()}, target)
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("convert", help="turn a pickled checkpoint (.pt, .pth) into safetensors, safely")
    p.add_argument("file", type=Path, metavar="FILE.pt")
    p.add_argument("--out", type=Path, help="default: beside it, with the ending .safetensors")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    print(convert(args.file, args.out))
    return 0


def convert(path: Path, out: Path | None = None) -> Path:
    """Write the tensors of a pickled state dict as safetensors, the whole file or none of it; returns where.

    Raises InvalidInput when it is no pickle, holds anything but tensors, or torch is too old to open it safely.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        raise InvalidInput(f"{path} is no file that ends in one of {', '.join(SUFFIXES)}: give a pickled checkpoint")
    out = out or path.with_suffix(".safetensors")
    if out.exists():
        raise InvalidInput(f"{out} is there already: remove it, or say --out")
    temporary = out.with_name(out.name + ".part")
    # -I: no variable, no module beside the file, no user's packages; env={}: no token that a pickle could send away
    command = [sys.executable, "-I", "-c", _CONVERTER, str(path.resolve()), str(temporary.resolve())]
    result = subprocess.run(command, env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        temporary.unlink(missing_ok=True)
        reason = (result.stderr.strip().splitlines() or [f"the process ended with {result.returncode}"])[-1]
        raise InvalidInput(f"{path} was not converted: {reason}")
    temporary.replace(out)
    return out
