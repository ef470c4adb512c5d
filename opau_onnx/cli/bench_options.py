"""Typed options of ``opau-bench``: subjects, measurement and files. Nothing heavy is imported here."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opau_onnx.bench.names import DTYPES, SUBJECTS
from opau_onnx.bench.timing import Plan
from opau_onnx.cli.common import check_output, fail


@dataclass(frozen=True)
class _Defaults:
    """Values of the options that are not given."""

    sizes: str
    dtypes: str
    subjects: str
    batches: str
    plan: Plan


FULL = _Defaults(",".join(f"2^{n}" for n in range(10, 25, 2)), ",".join(DTYPES), ",".join(SUBJECTS), "1,32,256", Plan())
QUICK = _Defaults(
    "2^10,2^16,2^20", "float32", ",".join(k for k in SUBJECTS if k != "compile"), "1,256",
    Plan(rounds=3, sample_seconds=0.001, subject_seconds=0.5, fewest=2),
)  # fmt: skip


@dataclass(frozen=True)
class BenchOptions:
    """Checked options of one call; ``config`` is basis, form and degrees."""

    config: tuple[str, str, tuple[int, int]]
    sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    subjects: tuple[str, ...]
    batches: tuple[int, ...]
    threads: int | None
    device: str
    plan: Plan

    def settings(self) -> Any:
        """The :class:`opau_onnx.bench.run.Settings`; raises SpecError for an activation that is none."""
        from opau_onnx.bench.run import Settings
        from opau_onnx.core.spec import Config

        return Settings(
            config=Config(*self.config), sizes=self.sizes, dtypes=self.dtypes, subjects=self.subjects, batches=self.batches,
            threads=self.threads, device=self.device, plan=self.plan, command=shlex.join(["opau-bench", *sys.argv[1:]]),
        )  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Files to write, where they are asked for."""

    report: Path | None
    markdown: Path | None
    plot: Path | None

    @property
    def paths(self) -> list[Path]:
        """The files that are asked for."""
        return [path for path in (self.report, self.markdown, self.plot) if path is not None]

    def check(self) -> None:
        """Refuse before the measurement what could not be written after it."""
        import importlib.util

        for option, path in (("--report", self.report), ("--markdown", self.markdown), ("--plot", self.plot)):
            check_output(option, path)
        if self.plot is not None and self.plot.suffix.lower() != ".png":
            fail(f"--plot is {str(self.plot)!r}; expected a name that ends in .png")
        if self.plot is not None and importlib.util.find_spec("matplotlib") is None:
            fail("--plot needs matplotlib: pip install 'opau-onnx[plot]'")
