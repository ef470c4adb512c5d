"""A few kernels under compute-sanitizer's four tools, each in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpu_checks.device import Cpu, Gpu

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SCRIPT = Path(__file__).resolve().parent.parent / "gpu.py"


def run(target: Gpu | Cpu, *, few: bool) -> dict[str, Any]:
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if target.dry or not Path(tool).is_file():
        return {"passed": target.dry, "tools": {}, "note": "a dry run" if target.dry else "compute-sanitizer is not here"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in TOOLS:
            command = [
                tool,
                "--tool",
                name,
                "--error-exitcode",
                "99",
                sys.executable,
                str(SCRIPT),
                "--few",
                "--part",
                "kernels",
            ]
            command += ["--output", folder] + ([] if target.path is None else ["--library", str(target.path)])
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
            found[name] = {"exit_code": done.returncode, "summary": lines[-1:] or done.stdout.splitlines()[-3:]}
    return {"passed": all(one["exit_code"] == 0 for one in found.values()), "tools": found}
