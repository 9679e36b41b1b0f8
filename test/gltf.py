"""The Khronos glTF validator, for tests."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

MODULES = Path(sys.prefix) / "npm" / "node_modules"
SCRIPT = """
const {validateBytes} = require("gltf-validator")
const files = JSON.parse(require("fs").readFileSync(0)).map(file => new Uint8Array(Buffer.from(file, "base64")))
Promise.all(files.map(file => validateBytes(file, {format: "glb", maxIssues: 0})))
    .then(reports => console.log(JSON.stringify(reports)))
"""


def validated(files: Iterable[bytes]) -> list[dict[str, Any]]:
    """The validator's report on each GLB. Skips the test where there is no Node.js or no validator."""
    if shutil.which("node") is None:
        pytest.skip("the Khronos validator runs on Node.js, and there is no node on this machine")
    if not (MODULES / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not installed: `make setup` installs it where there is an npm")
    run = subprocess.run(
        ["node", "-e", SCRIPT],
        input=json.dumps([base64.b64encode(data).decode() for data in files]).encode(),
        capture_output=True,
        env=os.environ | {"NODE_PATH": str(MODULES)},
        check=True,
    )
    reports: list[dict[str, Any]] = json.loads(run.stdout)
    return reports


def problems(report: dict[str, Any]) -> list[str]:
    """Errors and warnings."""
    return [message["message"] for message in report["issues"]["messages"] if message["severity"] < 2]
