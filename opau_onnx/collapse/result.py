"""Result and report of a collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opau_onnx._version import __version__
from opau_onnx.collapse.passes.standard import CollapsedActivation
from opau_onnx.collapse.quantize import Quantized
from opau_onnx.collapse.summary import Side
from opau_onnx.compare.agreement import TopKAgreement
from opau_onnx.compare.validation import Validation
from opau_onnx.core.reports import plain

REPORT_SCHEMA = "opau_onnx.collapse_report/1"


@dataclass(frozen=True)
class CollapseResult:
    """Result: the file and its validation.

    Attributes:
        source, requested: the file read and the file asked for.
        path: the file written; where the comparison failed, the one with ".rejected" in its name.
        form: as asked.
        replaced: one record for each activation.
        validation: None where it was not asked for.
        before, after: what the files hold and how long they take; None where nothing was run.
        tolerance: by how much each activation may differ on the range of its inputs; 0 for roundings only.
        agreements: of predictions on the data, by output, where a tolerance was given.
        quantized: how the model was quantized first; None where it was not.
        between: the quantized file, as before and after.
    """

    source: Path
    requested: Path
    path: Path
    form: str
    replaced: list[CollapsedActivation]
    validation: Validation | None
    before: Side | None = None
    after: Side | None = None
    tolerance: float = 0.0
    agreements: Mapping[str, TopKAgreement] = field(default_factory=dict)
    quantized: Quantized | None = None
    between: Side | None = None

    @property
    def equal(self) -> bool | None:
        """The verdict; None where nothing was compared."""
        return None if self.validation is None else self.validation.equal

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data; its schema is in docs/collapse.md."""
        content = {
            "schema": REPORT_SCHEMA,
            "opau_onnx": __version__,
            "source": self.source.name,
            "file": self.path.name,
            "collapsed": self.path == self.requested,
            "form": self.form,
            "tolerance": self.tolerance,
            "activations": records(self.replaced),
            "quantization": self.quantized,
            "quantized": self.between,
            "before": self.before,
            "after": self.after,
            "classes": [{"output": name, **found.as_dict()} for name, found in self.agreements.items()],
            "validation": self.validation or {"verdict": "not validated"},
        }
        return dict(plain(content))


def records(replaced: Sequence[CollapsedActivation]) -> list[dict[str, Any]]:
    """One record for each activation: what it was, how it is evaluated now."""
    return [
        {
            "node": r.node,
            "module": r.module,
            "basis": r.before.config.basis,
            "form": r.before.config.form,
            "degrees": list(r.frozen.config.degrees),
            "groups": r.frozen.config.groups,
            "evaluation": str(r.scheme),
            "operators": r.nodes,
            "absorbed": list(r.absorbed),
            "approximation": plain(r.approximation),
        }
        for r in replaced
    ]
