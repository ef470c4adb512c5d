"""The result, as an object, as JSON and as a page. The schema is in docs/verify.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from opau_onnx._version import __version__
from opau_onnx.compare.names import DIFFERENT, EQUAL, NOT_RUN, PYTORCH, REPORT_SCHEMA, TORCH
from opau_onnx.core.reports import plain
from opau_onnx.errors import ValidationError
from opau_onnx.io.atomic import replacing, write_json
from opau_onnx.io.source import Source
from opau_onnx.verify.activations import ActivationResult
from opau_onnx.verify.files import VerifiedFile
from opau_onnx.verify.findings import Finding
from opau_onnx.verify.layers import Inside
from opau_onnx.verify.onnx_model import OnnxModel
from opau_onnx.verify.runs import ReferenceRun, Run
from opau_onnx.verify.weight_diff import Stored


@dataclass
class FileResult:
    """Verification of one file.

    Attributes:
        file: the file, with one :class:`~opau_onnx.compare.loop.Run` for each runtime.
        reference: of PyTorch itself, or of the file that takes its place.
        samples, left_out: rows that were compared, and rows that fill no batch of a file whose batch is fixed.
        activations, weights: what is in the file, piece by piece.
        least: share of the samples that must have PyTorch's label; None for all.
        inside: layer by layer, where that was asked for.
        findings: in sentences.
    """

    file: VerifiedFile
    reference: ReferenceRun
    samples: int
    left_out: int
    activations: list[ActivationResult]
    weights: list[Stored]
    least: float | None
    inside: Inside | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """The verdict over all runtimes that ran."""
        ran = [run for run in self.file.runs if not run.reason]
        return all(run.equal(self.least) for run in ran) and not any(f.fails for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Content of which :func:`opau_onnx.core.reports.plain` makes JSON."""
        return {
            **self.file.describe(),
            "verdict": EQUAL if self.equal else DIFFERENT,
            "samples": self.samples,
            "left_out": self.left_out,
            "findings": self.findings,
            "reference": {
                "rounding": self.reference.rounding,
                "labels": self.reference.labels,
                "seconds": round(self.reference.seconds, 3),
            },
            "runtimes": [_run(run, self.least) for run in self.file.runs],
            "activations": self.activations,
            "weights": {
                "equal": sum(w.equal for w in self.weights),
                "different": [w for w in self.weights if not w.equal],
            },
            "layers": self.inside,
        }


def _run(run: Run, least: float | None) -> dict[str, Any]:
    return {
        "name": run.name,
        "status": NOT_RUN if run.reason else EQUAL if run.equal(least) else DIFFERENT,
        "reason": run.reason,
        "applicable": run.applicable,
        **{k: run.record.get(k) for k in ("version", "device", "provider", "implementation")},
        "seconds": round(run.seconds, 3),
        "samples": run.samples,
        "outputs": run.outputs,
        "labels": run.labels,
    }


@dataclass(frozen=True)
class VerifyResult:
    """Result of :func:`opau_onnx.verify_model`.

    Attributes:
        source: the PyTorch model, or the ONNX file that takes its place.
        reference: what ran it: name, version, device, provider and implementation.
        files: one result for each file.
        data: what they were compared on, in words.
        least: share of the samples that must have PyTorch's label; None for all.
        asked: the runtimes that were named, each of which must run; None where all that can were taken.
        settings: as plain data.
    """

    source: Source | OnnxModel
    reference: Mapping[str, str]
    files: list[FileResult]
    data: str
    least: float | None
    asked: Sequence[str] | None
    settings: dict[str, Any]

    @property
    def equal(self) -> bool:
        """True where every file is equal to the reference in every runtime that ran."""
        return all(result.equal for result in self.files)

    @property
    def missing(self) -> dict[str, str]:
        """Runtimes that were named and did not run, and why. A file that has nothing for a runtime is passed over, unless
        none has."""
        found: dict[str, str] = {}
        for name in (n for n in self.asked or () if n != TORCH):
            runs = [run for result in self.files for run in result.file.runs if run.name == name]
            failed = [run for run in runs if run.reason and (run.applicable or all(r.reason for r in runs))]
            if failed:
                found[name] = failed[0].reason
        return found

    @property
    def complete(self) -> bool:
        """True where all runtimes that were named ran."""
        return not self.missing

    @property
    def findings(self) -> list[Finding]:
        """Of all files."""
        return [finding for result in self.files for finding in result.findings]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data; its schema is in docs/verify.md."""
        content = {
            "schema": REPORT_SCHEMA,
            "opau_onnx": __version__,
            "verdict": EQUAL if self.equal else DIFFERENT,
            "complete": self.complete,
            "missing": self.missing,
            "model": {"name": self.source.name, "kind": self.source.kind, "sha256": self.source.sha256},
            "adopted": self.source.adopted,
            "reference": self.reference,
            "data": self.data,
            "settings": self.settings,
            "files": self.files,
        }
        return dict(plain(content))


def check_writable(*paths: Path | None) -> None:
    """Raise ValidationError where a report cannot be written: its folder does not exist, or the path is that of a folder."""
    for path in paths:
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            raise ValidationError(f"cannot write the report {path}: its folder does not exist, or it is a folder")


def write_reports(result: VerifyResult, report: Path | None, html: Path | None) -> None:
    """Write the report as JSON and as a page: each file appears whole, and none where one cannot be made."""
    content = result.as_dict()
    with ExitStack() as stack:
        if html is not None:
            from opau_onnx.verify.html import render  # templates, which nobody else needs

            stack.enter_context(replacing(html)).write_text(render(content), encoding="utf-8")
        if report is not None:
            write_json(report, content)


def torch_record() -> dict[str, str]:
    """Version and device of PyTorch, as plain data."""
    return {
        "name": PYTORCH,
        "version": f"torch {torch.__version__}",
        "device": "cpu",
        "provider": "eager",
        "implementation": "opau_onnx.nn, block by block",
    }


def file_record(name: str, description: str) -> dict[str, str]:
    """Runtime of an ONNX file that others are compared with, as plain data."""
    version, _, rest = description.partition(", ")
    provider, _, implementation = rest.partition(", ")
    return {"name": name, "version": version, "device": "cpu", "provider": provider, "implementation": implementation}
