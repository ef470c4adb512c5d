"""References for another runtime's outputs, with tolerances: PyTorch, an ONNX file, original modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from opau_onnx.compare import policies
from opau_onnx.compare.opening import open_model, open_runtime
from opau_onnx.compare.runtime import Runtime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF
from opau_onnx.errors import ValidationError
from opau_onnx.graph.dtypes import NAMES, coarsest
from opau_onnx.nn.casting import cast_inputs, cast_model, dtype_name


class Expected(NamedTuple):
    """One output on one batch.

    Attributes:
        values: in the precision to compare with, float64.
        exact: the float64 result; None where there is none.
        tolerance: absolute, for another runtime's values.
        silent: mask of the elements that say nothing about another runtime; None where all do.
        kind: name of the output's dtype where it is not the reference's.
    """

    values: Any
    exact: Any
    tolerance: float
    silent: Any = None
    kind: str = ""


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
        description: what gives the values, for reports.
    """

    def __init__(self, source: nn.Module, dtype: torch.dtype, seed: int) -> None:
        self.kind = dtype_name(dtype)
        self.exact = cast_model(source, torch.float64)
        self.single = cast_model(source, torch.float32)
        self.wide = dtype == torch.float64
        self.rounded = _with_rounded_numbers(self.exact) if self.wide else None
        self.rng = np.random.default_rng(seed)
        self.description = f"PyTorch {torch.__version__}, {'float64' if self.wide else 'float32'}, CPU"

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`; whole numbers have no rounding of their own."""
        with torch.no_grad():
            single = flatten(self.single(*cast_inputs(inputs, torch.float32)))
            double = cast_inputs(inputs, torch.float64)
            exact = flatten(self.exact(*double))
            nudged = [flatten(self._nudged(double)) for _ in range(policies.NUDGES)]
            moved = exact if self.rounded is None else flatten(self.rounded(*double))
        unit = UNIT_ROUNDOFF[self.kind] / UNIT_ROUNDOFF["float32"]
        found = []
        for i, (s, e, m) in enumerate(zip(single, exact, moved, strict=True)):
            rounding = max(_distance(e, other) for other in (s, *(n[i] for n in nudged)))
            values = (e if self.wide else s).double().numpy()
            kind = self.kind if s.is_floating_point() else ""
            tolerance = policies.measured(rounding * unit + _distance(e, m), kind, values)
            found.append(Expected(values, e.double().numpy(), tolerance))
        return found

    def _nudged(self, inputs: Sequence[Tensor]) -> Any:
        """The float64 result with every number moved by a rounding of float32."""
        weights = {**dict(self.exact.named_parameters()), **dict(self.exact.named_buffers())}
        moved = {name: self._nudge(tensor) for name, tensor in weights.items()}
        nudged = tuple(self._nudge(x) for x in inputs)
        # With ties it would leave a module that stands at two places nudged for good (torch 2.13).
        return torch.func.functional_call(self.exact, moved, nudged, tie_weights=False)

    def _nudge(self, values: Tensor) -> Tensor:
        if not values.is_floating_point():
            return values
        return torch.from_numpy(policies.nudge(values.detach().numpy(), "float32", self.rng, rounded=False))


def _distance(one: Tensor, other: Tensor) -> float:
    return policies.largest(np.abs(one.double().numpy() - other.double().numpy()))


def _with_rounded_numbers(model: nn.Module) -> nn.Module:
    """A copy whose modules' float attributes (eps, negative_slope, ..) are rounded to float32."""
    clone = copy.deepcopy(model)
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
        self.single, self.exact = copy.deepcopy(model).float().eval(), copy.deepcopy(model).double().eval()
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


class FileReference:
    """An ONNX file, and a measured tolerance: how far its outputs move when its weights and inputs are nudged.

    Args:
        path: the file.
        inputs: example inputs, to choose a runtime.
        seed: of the nudges.
        runtime: what runs the file; None for the first that can.
        exact: expect the same bits; nothing is nudged then.
    """

    def __init__(
        self, path: Path, inputs: Sequence[Tensor], seed: int, *, runtime: Runtime | None = None, exact: bool = False
    ) -> None:
        self.kind = "float32" if exact else coarsest(ir.load(path))
        self.runtime = runtime or open_runtime(path, inputs)
        draws = 0 if exact else policies.NUDGES
        self.moved = [open_model(_nudged(path, seed + n), inputs) for n in range(draws)]
        self.description = f"the original file, {self.runtime.description}"

    def expect(self, inputs: Sequence[Tensor], known: Sequence[Expected] = ()) -> list[Expected]:
        """See :meth:`Reference.expect`."""
        expected = [np.asarray(v, dtype=np.float64) for v in self.runtime.run(inputs)]
        others = [runtime.run([_nudge_tensor(x, n) for x in inputs]) for n, runtime in enumerate(self.moved)]
        found = []
        for i, want in enumerate(expected):
            moves = [policies.largest(np.abs(np.asarray(o[i], dtype=np.float64) - want)) for o in others]
            tolerance = policies.measured(max(moves), self.kind, want) if moves else policies.EXACT
            found.append(Expected(want, None, tolerance))
        return found


def _nudged(path: Path, seed: int) -> ir.Model:
    """The model with every stored number moved by a rounding of its dtype."""
    model = ir.load(path)
    rng = np.random.default_rng(seed)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.dtype in NAMES:
            numbers = policies.nudge(np.array(value.const_value.numpy()), NAMES[value.dtype], rng)
            value.const_value = ir.tensor(numbers, name=value.name)
    return model


def _nudge_tensor(x: Tensor, seed: int) -> Tensor:
    """By up to two roundings, since the result is rounded to the dtype again."""
    if not x.is_floating_point():
        return x
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    wide = x.double()
    return torch.where(wide == wide.round(), wide, wide * (1 + 2 * UNIT_ROUNDOFF[dtype_name(x.dtype)] * noise)).to(x.dtype)


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
