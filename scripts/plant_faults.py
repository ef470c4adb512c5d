"""Plant faults one at a time in a copy of the tree, run the tests that should find each, and list the survivors.

    python scripts/plant_faults.py                 # all, an hour
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
from dataclasses import dataclass
from pathlib import Path

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
CERTIFY, SWEEP = "custom_ops/certify/certify.cpp", "tests/custom_ops/test_planted_kernels.py"
INTERVALS, PROOFS = "opau_onnx/collapse/approximation/intervals.py", "tests/collapse/test_proofs.py"
TABLE, ORACLE = "opau_onnx/collapse/approximation/table.py", "opau_onnx/core/oracle.py"
EVALUATION, RANGE = "opau_onnx/core/evaluation.py", "tests/core/test_range_policy.py"
CACHE, LAYOUT = "opau_onnx/runtime/layout_cache.py", "tests/runtime/test_layout.py"
ABSORB, ABSORBED = "opau_onnx/collapse/passes/absorb.py", "tests/collapse/test_absorb.py"
WHOLE, FILES = "opau_onnx/graph/whole.py", "tests/graph/test_whole.py"
JUDGE = "opau_onnx/certify/certificate.py"


@dataclass(frozen=True)
class Fault:
    """A text of a file, what it becomes, and the tests (a file, with a -k expression where given) that should fail."""

    name: str
    file: str
    text: str
    planted: str
    tests: str
    only: str = ""


# ruff: noqa: E501
FAULTS = (
    Fault("bits of instruction sets are not compared", CERTIFY, "if (!same(element(b.out[s], i, job.format), bits, job.format)) {",
          "if (false) {", SWEEP, "one_sets_bits"),
    Fault("errors beyond the bound are not counted", CERTIFY, "if (error > limit) count(", "if (false) count(", SWEEP, "interval"),
    Fault("the sign of infinity is not looked at", CERTIFY, "std::isinf(y) && (y > 0) == (value > 0)", "std::isinf(y)", SWEEP,
          "sign_of_infinity"),
    Fault("results that are not finite pass", CERTIFY, "if (!std::isfinite(y)) {", "if (false) {", SWEEP, "nan or overflow"),
    Fault("variants are not compared", CERTIFY, "if (!right) count(to.differences", "if (false) count(to.differences", SWEEP,
          "lanes or tiles or streaming or runs or blocks"),
    Fault("slower sets' variants are not compared", CERTIFY, "if (s == last || index % kSeldom == 0)", "if (s == last)", SWEEP,
          "slow_sets"),
    Fault("differences of variants are no reason", JUDGE, "if variant.differences:", "if False:", SWEEP, "lanes"),
    Fault("nothing compared is no reason", JUDGE, "elif not variant.compared:", "elif False:", SWEEP, "compared"),
    Fault("violations are no reason", JUDGE, "if found.violations:", "if False:", SWEEP, "overflow"),
    Fault("intervals are not rounded outward below", INTERVALS, "low = low - np.abs(low) * factor - self.tiny", "low = low * 1.0",
          PROOFS),
    Fault("intervals are not rounded outward above", INTERVALS, "high + np.abs(high) * factor + self.tiny", "high", PROOFS),
    Fault("a pole at the lower edge", INTERVALS, "(y.low <= 0) & (y.high >= 0)", "(y.low < 0) & (y.high >= 0)", PROOFS),
    Fault("a pole at the upper edge", INTERVALS, "(y.low <= 0) & (y.high >= 0)", "(y.low <= 0) & (y.high > 0)", PROOFS),
    Fault("the table's slop", TABLE, "slop = _SLOP", "slop = 0.0", PROOFS),
    Fault("the table's rounding", TABLE, "+ rounding).max()", ").max()", PROOFS),
    Fault("the bound of the last group", TABLE, "worst = max(worst, float(", "worst = max(0.0, float(", PROOFS),
    Fault("no common factor", EVALUATION, "if factor is None:\n        return _weighted", "if True:\n        return _weighted", RANGE,
          "small_coefficients"),
    Fault("no sign of the leading term", EVALUATION, "if sign is None:", "if True:", RANGE, "infinities"),
    Fault("the oracle leaves out Q's loss", ORACLE, "total = sums[0] + Big.of(np.abs(value)) * sums[1]", "total = sums[0]", RANGE,
          "floor"),
    Fault("the processor is not in the key", CACHE, "this_processor() if processor is None else processor]", '""]', LAYOUT,
          "in_its_key"),
    Fault("session entries are not in the key", CACHE, "repr(_entries(options)), ", "", LAYOUT, "in_its_key"),
    Fault("dimensions are not in the key", CACHE, ", repr(_effects(model, options))]", "]", LAYOUT, "in_its_key or other_options"),
    Fault("entries are not verified", CACHE, "return content if head == _SIGNED + _hash(name, content) else None", "return content",
          LAYOUT, "flipped"),
    Fault("names of subgraphs are not read", "opau_onnx/runtime/layout.py", "readers.update(_outer_names(graph))", "", LAYOUT,
          "subgraph"),
    Fault("BatchNormalization along any axis", ABSORB, 'or (node.op_type == "BatchNormalization" and place[0] != 1)', "", ABSORBED,
          "another_axis"),
    Fault("factors of any size", ABSORB, "FACTORS = 2.0**-40, 2.0**40", "FACTORS = 0.0, float('inf')", ABSORBED, "forbids"),
    Fault("offsets that cancel", ABSORB, "CANCELLING = 16.0", "CANCELLING = 1e30", ABSORBED, "forbids"),
    Fault("coefficients of any size", ABSORB, "_within(numerator, COEFFICIENT_FLOOR, COEFFICIENT_LIMIT)", "True", ABSORBED,
          "forbids"),
    Fault("no bodies are put back", WHOLE, "_names(nodes), _bodies(proto, nodes)", "_names(nodes)", FILES, "tools_leave"),
    Fault("no names are given", WHOLE, "_attributes(nodes), _names(nodes)", "_attributes(nodes)", FILES, "branches or tools_leave"),
    Fault("any link is followed", WHOLE, " or place.resolve().parent != path.resolve().parent", "", FILES, "links"),
)  # fmt: skip


def survives(fault: Fault, folder: Path, environment: dict[str, str]) -> bool:
    """Whether the tests pass with the fault in the copy; the copy is as it was afterwards."""
    path = folder / fault.file
    before = path.read_text(encoding="utf-8")
    if before.count(fault.text) != 1:
        raise SystemExit(f"{fault.name}: the text stands {before.count(fault.text)} times in {fault.file}; expected once")
    path.write_text(before.replace(fault.text, fault.planted), encoding="utf-8")
    try:
        command = [sys.executable, "-c", START, "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", fault.tests]
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
