"""Plant faults one at a time in a copy of the tree, run the tests that should find each, and list the survivors.

    python scripts/plant_faults.py                 # all, hours
    python scripts/plant_faults.py --only certify  # those whose file or name holds the word

Faults are textual edits: a text that stands once in a file, and what it becomes. C++ of `custom_ops/certify/` is compiled by
the tests themselves; other C++ needs `make library` and is not planted here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from planted import FAULTS, Fault

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("opau_onnx", "custom_ops", "tests", "scripts", "models", "pyproject.toml", "README.md")
START = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]  # of the editable installation
sys.path.insert(0, "")
import opau_onnx, os, pytest
assert opau_onnx.__file__.startswith(os.getcwd()), opau_onnx.__file__
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Runs pytest on the copy."""


def survives(fault: Fault, folder: Path, environment: dict[str, str]) -> bool:
    """Whether the tests pass with the fault in the copy; the copy is as it was afterwards."""
    path = folder / fault.file
    before = path.read_text(encoding="utf-8")
    if before.count(fault.text) != 1:
        raise SystemExit(f"{fault.name}: the text stands {before.count(fault.text)} times in {fault.file}; expected once")
    path.write_text(before.replace(fault.text, fault.planted), encoding="utf-8")
    try:
        command = [sys.executable, "-c", START, "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", *fault.tests.split()]
        command += ["-k", fault.only] if fault.only else []
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(before, encoding="utf-8")
    if done.returncode not in (0, 1):  # of pytest: errors of its own, nothing collected
        raise SystemExit(f"{fault.name}: the tests could not be run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name or file holds this")
    word = parser.parse_args().only
    chosen = [f for f in FAULTS if word in f.name or word in f.file]
    sys.path.insert(0, str(ROOT))
    from opau_onnx.native.library import get_library_path

    survivors = []
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = Path(name)
        for part in COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        environment = {**os.environ, "PYTHONPATH": str(folder), "OPAU_LIBRARY": get_library_path()}
        for fault in chosen:
            alive = survives(fault, folder, environment)
            survivors += [fault.name] if alive else []
            print(f"{'SURVIVED' if alive else 'found'}: {fault.file}: {fault.name}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} found" + "".join(f"\n  survived: {name}" for name in survivors))
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
