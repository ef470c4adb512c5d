"""References for another runtime's outputs, with tolerances: what all of them are, original modules, shifted files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.compare import policies
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, distances
from opau_onnx.errors import NotComparableError, ValidationError
from opau_onnx.nn.casting import cast_inputs, dtype_name
from opau_onnx.nn.copying import copy_module

AT_ONCE = 1 << 24
"""Numbers in the outputs of the batches that are measured together, with the same moved weights."""


class Expected(NamedTuple):
    """One output on one batch.

    Attributes:
        values: in the precision to compare with, float64.
        exact: the float64 result; None where there is none.
        tolerance: absolute, for another runtime's values; a number, or one for each element.
        silent: mask of the elements that say nothing about another runtime; None where all do.
        kind: name of the output's dtype where it is not the reference's.
    """

    values: Any
    exact: Any
    tolerance: Any
    silent: Any = None
    kind: str = ""

    @property
    def rounding(self) -> float:
        """The largest difference between the two precisions; NaN where there is no float64 result."""
        return float("nan") if self.exact is None else policies.largest(distances(self.exact, self.values))


class Reference:
    """Source of expected outputs.

    Attributes:
        kind: name of the dtype that the file computes in.
        description: what gives the values, for reports.
    """

    kind: str
    description: str

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """Each output for a batch in the file's dtype; ``known`` is what the reference before this one expects."""
        raise NotImplementedError

    def expect_all(self, batches: Iterable[tuple[str, Sequence[Tensor]]]) -> Iterator[list[Expected]]:
        """:meth:`expect` of each batch, with its name, in order."""
        for _, inputs in batches:
            yield self.expect(inputs)


def refuse_nan(what: str, inputs: Sequence[Tensor], outputs: Sequence[Any]) -> None:
    """Raise NotComparableError where finite inputs give NaN: NaN beside NaN shows nothing then."""
    finite = all(bool(torch.isfinite(x).all()) for x in inputs if x.is_floating_point())
    if finite and any(bool(np.isnan(v).any()) for v in outputs):
        raise NotComparableError(f"{what} gives NaN for finite inputs, which says nothing about a file; look at its weights")


def moves_of(one: Tensor, others: Sequence[Tensor]) -> Any:
    """Elementwise the largest distance from ``one``; 0 where it is not finite."""
    base, found = one.double().numpy(), np.zeros(tuple(one.shape))
    for other in others:
        with np.errstate(all="ignore"):
            distance = np.abs(base - other.double().numpy())
        np.maximum(found, np.where(np.isfinite(distance), distance, 0.0), out=found)
    return found


class OriginalReference(Reference):
    """The modules of another library, before they were adopted: what was made of them is not taken for granted.

    The tolerance is that of the comparison with the adopted modules, which stands before this one, and the original's own
    rounding error besides. Where the original gives NaN or infinity in float32 and in float64, it says nothing about the file;
    how often is said in ``description``, as is an original that cannot run here.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.kind = dtype_name(dtype)
        self.wide = dtype == torch.float64
        # Not to(dtype): some libraries overload it and fail.
        self.single, self.exact = copy_module(model).float().eval(), copy_module(model).double().eval()
        self.reason, self.silent, self.values = "", 0, 0
        self.description = self._describe()

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`; nothing is expected where the original cannot run."""
        try:
            with torch.no_grad():
                exact = self._outputs(self.exact, cast_inputs(inputs, torch.float64))
                single = exact if self.wide else self._outputs(self.single, cast_inputs(inputs, torch.float32))
        except (Exception, SystemExit) as error:  # the libraries' own code; one of them calls exit
            lines = str(error).strip().splitlines() or [""]
            self.reason = f"{type(error).__name__}: {lines[0]}"
            self.description = self._describe()
            return []
        unit = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF["float32"]
        found = []
        for wide, narrow, base in zip(exact, single, known, strict=True):
            with np.errstate(all="ignore"):
                values = np.where(np.isfinite(narrow), narrow, wide if self.wide else wide.astype(np.float32))
                silent = ~np.isfinite(values)
                rounding = policies.ROUNDING_FACTOR * unit * policies.largest(np.abs(wide - narrow))
            self.values += values.size
            self.silent += int(np.count_nonzero(silent))
            found.append(Expected(values, wide, base.tolerance + rounding, silent))
        self.description = self._describe()
        return found

    def _outputs(self, model: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
        return [t.double().numpy() for t in flatten(model(*inputs))]

    def _describe(self) -> str:
        """Text for reports: what was compared and what was not."""
        if self.reason:
            return f"adopted modules; the original ones could not run here ({self.reason})"
        silent = f" (not on {self.silent:,} of {self.values:,} values, which are NaN or infinite there)" if self.silent else ""
        return f"adopted modules and the original ones{silent}"


class ShiftedReference(Reference):
    """A file whose activations may change by a tolerance: how far its outputs go when all of them do.

    Args:
        runtime: of the file.
        moved: of the file with every activation's result moved by the tolerance.
        module: a PyTorch model whose outputs are expected instead of the file's; None for those.
    """

    kind = "float32"

    def __init__(
        self, runtime: Runtime, moved: Sequence[Runtime], description: str, module: Callable[..., Any] | None = None
    ) -> None:
        self.runtime, self.moved, self.description, self.module = runtime, moved, description, module

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`."""
        plain = self.runtime.run(inputs)
        own = [np.asarray(v, dtype=np.float64) for v in plain]
        others = [runtime.run(inputs) for runtime in self.moved]
        values = own if self.module is None else [t.double().numpy() for t in flatten(self.module(*inputs))]
        found = []
        for i, (want, file) in enumerate(zip(values, own, strict=True)):
            move = max(policies.largest(np.abs(np.asarray(o[i], dtype=np.float64) - file)) for o in others)
            kind = str(plain[i].dtype)
            tolerance = policies.shifted(move, kind, want)
            found.append(Expected(want, None, tolerance, kind=kind if kind in UNIT_ROUNDOFF else ""))
        return found


def flatten(result: Any) -> list[Tensor]:
    """The tensors in what a model returns, in the order of an exported file's outputs.

    Raises:
        ValidationError: it returns something else than tensors, or tuples, lists or dicts of them.
    """
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        result = result.values()
    if isinstance(result, (tuple, list)) or hasattr(result, "__iter__"):
        return [t for part in result for t in flatten(part)]
    raise ValidationError(f"the model returns {type(result).__name__}; expected tensors, or tuples, lists or dicts of them")
