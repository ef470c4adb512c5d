"""References for another runtime's outputs, with tolerances: PyTorch, an ONNX file, original modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from opau_onnx.compare import policies
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, distances
from opau_onnx.errors import NotComparableError, ValidationError
from opau_onnx.nn.casting import cast_inputs, cast_model, dtype_name
from opau_onnx.nn.copying import copy_module


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


class Reference(Protocol):
    """Source of expected outputs.

    Attributes:
        kind: name of the dtype that the file computes in.
        description: what gives the values, for reports.
    """

    kind: str

    @property
    def description(self) -> str: ...

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected]) -> list[Expected]:
        """Each output for a batch in the file's dtype; ``known`` is what the reference before this one expects."""
        ...


class TorchReference:
    """PyTorch's result in the precision to compare with, and a measured tolerance for another runtime's.

    Measured are PyTorch's own rounding error, the distance between its float32 and its float64 result, and how far the float64
    result moves when inputs and weights are nudged by a rounding of float32. ONNX's attributes are float32
    (BatchNormalization's epsilon, say), which a float64 model feels: what rounding the modules' own numbers so changes is
    measured too.

    Attributes:
        kind: name of the dtype that the file computes in.
        single, exact: copies of the model in float32 and float64.
        reason: why the float64 copy cannot run; "" where it can.
    """

    def __init__(self, source: nn.Module, dtype: torch.dtype, seed: int) -> None:
        self.kind = dtype_name(dtype)
        self.exact = cast_model(source, torch.float64)
        self.single = cast_model(source, torch.float32)
        self.wide = dtype == torch.float64
        self.rounded = _with_rounded_numbers(self.exact) if self.wide else None
        self.rng = np.random.default_rng(seed)
        self.repeated, self.reason = False, ""

    @property
    def description(self) -> str:
        """What gives the values, and whether there is a float64 result to measure roundings by."""
        note = f" (its float64 copy cannot run: {self.reason}; roundings are measured in float32)" if self.reason else ""
        return f"PyTorch {torch.__version__}, {'float64' if self.wide else 'float32'}, CPU{note}"

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`; whole numbers have no rounding of their own."""
        with torch.no_grad():
            single = flatten(self.single(*cast_inputs(inputs, torch.float32)))
            self._check(inputs, single)
            exact = self._float64(inputs)
            if exact is None:
                return self._by_nudges(inputs, single)
            double = cast_inputs(inputs, torch.float64)
            nudged = [flatten(self._nudged(self.exact, double)) for _ in range(policies.NUDGES)]
            moved = exact if self.rounded is None else flatten(self.rounded(*double))
        unit = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF["float32"]
        found = []
        for i, (s, e, m) in enumerate(zip(single, exact, moved, strict=True)):
            moves = moves_of(e, [s, *(n[i] for n in nudged)])
            values = (e if self.wide else s).double().numpy()
            kind = self.kind if s.is_floating_point() else ""
            tolerance = policies.measured(moves * unit + moves_of(e, [m]), kind, values)
            found.append(Expected(values, e.double().numpy(), tolerance, policies.undecided(moves, kind)))
        return found

    def _check(self, inputs: Sequence[Tensor], first: Sequence[Tensor]) -> None:
        """Raise NotComparableError for a model whose results are not a function of its inputs, or are NaN for finite ones."""
        if not self.repeated:
            self.repeated = True
            again = flatten(self.single(*cast_inputs(inputs, torch.float32)))
            for a, b in zip(first, again, strict=True):
                if a.shape != b.shape or not _same(a, b):
                    raise NotComparableError(
                        "two runs of the model on the same input differ: it draws random numbers, or changes its state, in "
                        "forward (dropout with training=True, randn, a counter in a buffer); take that out for inference"
                    )
        refuse_nan("the model", inputs, [t.double().numpy() for t in first if t.is_floating_point()])

    def _float64(self, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        """The result of the float64 copy; None where that cannot run, as a model that makes float32 tensors inside cannot."""
        if self.reason:
            return None
        try:
            return flatten(self.exact(*cast_inputs(inputs, torch.float64)))
        except ValidationError:
            raise
        except Exception as error:  # the model's own code
            if self.wide:
                raise
            self.reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            return None

    def _by_nudges(self, inputs: Sequence[Tensor], single: Sequence[Tensor]) -> list[Expected]:
        """The tolerance from how far the float32 result itself moves, in more draws: its own roundings are among the moves."""
        unit = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF["float32"]
        narrow = cast_inputs(inputs, torch.float32)
        draws = [flatten(self._nudged(self.single, narrow)) for _ in range(policies.FLOAT32_NUDGES)]
        found = []
        for i, s in enumerate(single):
            values, kind = s.double().numpy(), self.kind if s.is_floating_point() else ""
            moves = moves_of(s, [draw[i] for draw in draws])
            found.append(Expected(values, None, policies.measured(moves * unit, kind, values), policies.undecided(moves, kind)))
        return found

    def _nudged(self, model: nn.Module, inputs: Sequence[Tensor]) -> Any:
        """A copy's result with every number moved by a rounding of float32."""
        weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        moved = {name: self._nudge(tensor) for name, tensor in weights.items()}
        nudged = tuple(self._nudge(x) for x in inputs)
        # With ties it would leave a module that stands at two places nudged for good (torch 2.13).
        return torch.func.functional_call(model, moved, nudged, tie_weights=False)

    def _nudge(self, values: Tensor) -> Tensor:
        if not values.is_floating_point():
            return values
        rounded = values.dtype == torch.float32  # where a smaller move would be rounded away
        return torch.from_numpy(policies.nudge(values.detach().numpy(), "float32", self.rng, rounded=rounded))


def refuse_nan(what: str, inputs: Sequence[Tensor], outputs: Sequence[Any]) -> None:
    """Raise NotComparableError where finite inputs give NaN: NaN beside NaN shows nothing then."""
    finite = all(bool(torch.isfinite(x).all()) for x in inputs if x.is_floating_point())
    if finite and any(bool(np.isnan(v).any()) for v in outputs):
        raise NotComparableError(f"{what} gives NaN for finite inputs, which says nothing about a file; look at its weights")


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal up to the order of sums, which threads may change."""
    if not one.is_floating_point():
        return bool(torch.equal(one, other))
    allowed = policies.largest(policies.result_roundings("float32", one.double().numpy()))
    return bool(torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True))


def moves_of(one: Tensor, others: Sequence[Tensor]) -> Any:
    """Elementwise the largest distance from ``one``; 0 where it is not finite."""
    base, found = one.double().numpy(), np.zeros(tuple(one.shape))
    for other in others:
        with np.errstate(all="ignore"):
            distance = np.abs(base - other.double().numpy())
        np.maximum(found, np.where(np.isfinite(distance), distance, 0.0), out=found)
    return found


def _with_rounded_numbers(model: nn.Module) -> nn.Module:
    """A copy whose modules' float attributes (eps, negative_slope, ..) are rounded to float32."""
    clone = copy_module(model)
    for module in clone.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float):
                setattr(module, name, float(np.float32(value)))
    return clone


class OriginalReference:
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

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected]) -> list[Expected]:
        """See :meth:`Reference.expect`; nothing is expected where the original cannot run."""
        try:
            with torch.no_grad():
                exact = self._outputs(self.exact, cast_inputs(inputs, torch.float64))
                single = exact if self.wide else self._outputs(self.single, cast_inputs(inputs, torch.float32))
        except (Exception, SystemExit) as error:  # the libraries' own code; one of them calls exit
            lines = str(error).strip().splitlines() or [""]
            self.reason = f"{type(error).__name__}: {lines[0]}"
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
        return found

    def _outputs(self, model: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
        return [t.double().numpy() for t in flatten(model(*inputs))]

    @property
    def description(self) -> str:
        """Text for reports: what was compared and what was not."""
        if self.reason:
            return f"adopted modules; the original ones could not run here ({self.reason})"
        silent = f" (not on {self.silent:,} of {self.values:,} values, which are NaN or infinite there)" if self.silent else ""
        return f"adopted modules and the original ones{silent}"


class ShiftedReference:
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
