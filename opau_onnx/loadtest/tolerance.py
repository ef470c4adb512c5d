"""Tolerances of expected responses, by element, from the policies of :mod:`opau_onnx.compare.policies`.

A server merges requests into batches of changing sizes, and a matrix product of another size sums in another order, so a
correct response may differ from the expected one by roundings. How far roundings move each element is measured: by the
responses to the same requests with inputs nudged by a rounding. The weights of a served model cannot be nudged, hence
:data:`UNSEEN`. An output that nothing moved, as where all inputs are integers, must keep half of the digits of the largest
value in each column. Integers and booleans have no tolerance; those that roundings change, as the class of a tie, are left
out.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.compare.tensors import UNIT_ROUNDOFF, distances
from opau_onnx.errors import NotComparableError
from opau_onnx.loadtest.config import LoadTestError
from opau_onnx.loadtest.responses import InferRequest, Tensor
from opau_onnx.protocol.tensors import DATATYPES, Array, TensorSpec

Wide = npt.NDArray[np.float64]
Outputs = Mapping[str, Tensor]
Respond = Callable[[InferRequest, Mapping[str, Array]], Awaitable[Outputs]]
"""The outputs for a request with other inputs: :meth:`opau_onnx.loadtest.expected.Reference.outputs`."""
UNSEEN = {"float32": 8.0, "float64": 8.0}
"""Times as far as nudged inputs do may roundings inside the model move its outputs: with the inputs alone nudged, PyTorch's and
onnxruntime's results of LeNet, MLPs and a transformer differed by up to 1.2 times the policy's tolerance. In 16 bits a nudged
input changes the roundings of all layers."""
FEWEST_ROWS = 16
"""Rows that give each column of an output a size of its own."""


def can_nudge(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """True where roundings can be measured: inputs and outputs are floating somewhere."""
    return all(any(spec.dtype.name in UNIT_ROUNDOFF for spec in specs) for specs in (inputs, outputs))


@dataclass(frozen=True)
class GivenTolerance:
    """The user's tolerance for floating outputs: atol + rtol * abs(expected)."""

    rtol: float
    atol: float

    def limits(self, name: str, expected: Sequence[Tensor]) -> list[Wide]:
        """The largest allowed distance of each element, for one output of all requests."""
        return [self._limit(tensor) for tensor in expected]

    def _limit(self, tensor: Tensor) -> Wide:
        values = _wide(tensor)
        if _kind(tensor) not in UNIT_ROUNDOFF:
            return np.zeros_like(values)
        return self.atol + self.rtol * np.where(np.isfinite(values), np.abs(values), 0.0)

    def __str__(self) -> str:
        return f"{self.atol:g} + {self.rtol:g} * abs(expected); integers exactly"


@dataclass(frozen=True)
class MeasuredTolerance:
    """The measured tolerance.

    Attributes:
        draws: for each draw of nudged inputs, the responses to all requests; none where nothing can be nudged.
    """

    draws: Sequence[Sequence[Outputs]]

    def limits(self, name: str, expected: Sequence[Tensor]) -> list[Wide]:
        """As :meth:`GivenTolerance.limits`; elements of all requests are pooled.

        Raises:
            LoadTestError: a nudged request's output has another shape, or roundings move the output by about its own size.
        """
        from opau_onnx.compare import policies

        kind, values = _kind(expected[0]), [_wide(tensor) for tensor in expected]
        moves = [np.zeros_like(v) for v in values]
        for draw in self.draws:
            for move, value, outputs in zip(moves, values, draw, strict=True):
                np.maximum(move, _move(name, value, outputs), out=move)
        every, moved = _flat(values), _flat(moves)
        if kind in UNIT_ROUNDOFF and not moved.any():
            return _half_of_the_digits(kind, values)
        limit = policies.measured(UNSEEN.get(kind, 1.0) * moved, kind, every, few=True)
        # Not refuse_vague: of confident probabilities most are smaller than what roundings of their logits move. Requests that
        # the tolerance cannot tell apart are counted.
        allowed, size = policies.largest(limit), policies.largest(np.abs(every))
        if allowed > policies.LARGEST_SHARE * size:
            raise LoadTestError(
                f"no tolerance can be measured for {name!r}, give --rtol or --atol: roundings of the inputs move it by so much "
                f"that {allowed:.3g} would have to be allowed, and its largest value is {size:.3g}"
            )
        try:
            undecided = policies.undecided(moved, kind)
        except NotComparableError as error:
            raise LoadTestError(f"no tolerance can be measured for {name!r}, give --rtol or --atol: {error}") from None
        limit = limit if undecided is None else np.where(undecided, np.inf, limit)
        ends = np.cumsum([v.size for v in values])[:-1]
        return [part.reshape(v.shape) for part, v in zip(np.split(limit, ends), values, strict=True)]

    def __str__(self) -> str:
        return "measured by element, from inputs nudged by a rounding; integers exactly"


Tolerance = GivenTolerance | MeasuredTolerance


async def measured_tolerance(respond: Respond, requests: Sequence[InferRequest], seed: int) -> MeasuredTolerance:
    """Ask a reference for the responses to nudged inputs; integers, booleans and whole numbers stay."""
    from opau_onnx.compare import policies  # it loads PyTorch, which a load test with a given tolerance does without

    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(policies.NUDGES):
        draw = []
        for request in requests:
            inputs = {
                name: policies.nudge(x, x.dtype.name, rng) if x.dtype.name in UNIT_ROUNDOFF else x
                for name, x in request.inputs.items()
            }
            draw.append(await respond(request, inputs))
        draws.append(draw)
    return MeasuredTolerance(draws)


def _kind(tensor: Tensor) -> str:
    return DATATYPES[tensor.datatype].numpy.name


def _wide(tensor: Tensor) -> Wide:
    return tensor.array().astype(np.float64)


def _flat(arrays: Sequence[Wide]) -> Wide:
    return np.concatenate([array.ravel() for array in arrays])


def _half_of_the_digits(kind: str, values: Sequence[Wide]) -> list[Wide]:
    """Limits from the largest value in each column (of all rows of all requests), or in the output where rows are few."""
    share = math.sqrt(UNIT_ROUNDOFF[kind])
    sizes = [np.where(np.isfinite(v), np.abs(v), 0.0) for v in values]
    columns = {v.shape[1:] for v in values} if all(v.ndim for v in values) else set()
    if len(columns) == 1 and sum(map(len, values)) >= FEWEST_ROWS:
        largest = np.concatenate(sizes).max(axis=0)
        return [np.broadcast_to(share * largest, v.shape) for v in values]
    return [np.full_like(v, share * max(s.max(initial=0.0) for s in sizes)) for v in values]


def _move(name: str, values: Wide, outputs: Outputs) -> Any:
    """Distance by which a draw moved each element; 0 where it is not finite."""
    other = _wide(outputs[name])
    if other.shape != values.shape:
        raise LoadTestError(
            f"output {name!r} is {list(other.shape)}, and {list(values.shape)} where the inputs are nudged by a rounding; "
            "give --rtol or --atol"
        )
    distance = distances(values, other)
    return np.where(np.isfinite(distance), distance, 0.0)
