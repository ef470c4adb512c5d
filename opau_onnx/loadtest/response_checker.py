"""Check of responses: the same bytes as a response known to be correct, else the same values within the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opau_onnx.compare.tensors import UNIT_ROUNDOFF, compare, distances
from opau_onnx.loadtest.recorder import CORRECT, INCORRECT
from opau_onnx.loadtest.responses import InferResponse, InvalidResponseError, StatusError, Tensor
from opau_onnx.loadtest.tolerance import Tolerance, Wide
from opau_onnx.protocol.tensors import DATATYPES

REMEMBERED = 8
"""Correct responses to one request that are kept by their bytes: a few orders of summation give a few results."""
SAMPLED = 1024
"""Elements in which two rows are compared before all are."""
TRACED = 20
"""Incorrect responses that are looked for among the other requests' expected responses."""


@dataclass(frozen=True)
class Expected:
    """One output of one request.

    Attributes:
        tensor: as expected.
        values: in float64.
        limit: the largest allowed distance of each element.
    """

    tensor: Tensor
    values: Wide
    limit: Wide


@dataclass
class PreparedRequest:
    """A prepared request: the bytes to send and the expected response.

    Attributes:
        number, id: its place in the pool, and the id that is sent.
        rows: of its inputs.
        message: the encoded request.
        expected: by output.
        known: contents of responses that were found correct.
    """

    number: int
    id: str
    rows: int
    message: bytes
    expected: Mapping[str, Expected]
    known: list[Any] = field(default_factory=list)


def expectations(responses: Sequence[Mapping[str, Tensor]], tolerance: Tolerance) -> list[dict[str, Expected]]:
    """Expected outputs of each request, with the tolerance that all requests' outputs give."""
    limits = {name: tolerance.limits(name, [outputs[name] for outputs in responses]) for name in responses[0]}
    return [
        {name: Expected(t, t.array().astype(np.float64), limits[name][i]) for name, t in outputs.items()}
        for i, outputs in enumerate(responses)
    ]


class ResponseChecker:
    """Checks every response.

    Args:
        parse: of the protocol, from a content to an :class:`InferResponse`; raises InvalidResponseError or StatusError.
        pool: all prepared requests.
    """

    def __init__(self, parse: Callable[[Any], InferResponse], pool: Sequence[PreparedRequest]) -> None:
        self._parse, self._pool, self._traced = parse, pool, 0

    def check(self, request: PreparedRequest, content: Any) -> tuple[str, str]:
        """(:data:`CORRECT`, ""), or another outcome with the reason."""
        if content in request.known:
            return CORRECT, ""
        try:
            self._compare(request, self._parse(content))
        except InvalidResponseError as error:
            return INCORRECT, str(error)
        except StatusError as error:
            return f"{error.status} with an error", error.reason
        request.known.append(content)
        del request.known[:-REMEMBERED]
        return CORRECT, ""

    def _compare(self, request: PreparedRequest, response: InferResponse) -> None:
        if response.id not in ("", request.id):
            raise InvalidResponseError(f"the id is {response.id!r}; expected {request.id!r}")
        if missing := request.expected.keys() - response.outputs.keys():
            raise InvalidResponseError(f"output {min(missing)!r} is missing")
        for name, want in request.expected.items():
            got = response.outputs[name]
            if got == want.tensor:
                continue
            if (got.datatype, got.shape) != (want.tensor.datatype, want.tensor.shape):
                raise InvalidResponseError(
                    f"output {name!r} is {got.datatype} {list(got.shape)}; expected {want.tensor.datatype} "
                    f"{list(want.tensor.shape)}"
                )
            values = got.array().astype(np.float64)
            if not within(want.values, values, want.limit):
                raise InvalidResponseError(self._difference(request, name, want, values))

    def _difference(self, request: PreparedRequest, name: str, want: Expected, values: Wide) -> str:
        kind = DATATYPES[want.tensor.datatype].numpy.name
        found = compare(name, want.values, values, kind if kind in UNIT_ROUNDOFF else "float64", atol=want.limit)
        at = found.worst_index
        text = (
            f"request {request.number}: {name}{list(at)} is {found.actual:.6g}, expected {found.expected:.6g} within "
            f"{want.limit[at]:.2g}"
        )
        self._traced += 1
        if self._traced > TRACED or not at:
            return text
        return text + self._origin(name, values[at[0]])

    def _origin(self, name: str, row: Wide) -> str:
        """The request whose row was returned instead; "" where none is found."""
        for request in self._pool:
            want = request.expected[name]
            if want.values.shape[1:] != row.shape:
                continue
            for i, (values, limit) in enumerate(zip(want.values, want.limit, strict=True)):
                if within(values, row, limit):
                    return f"; the row is row {i} of request {request.number}"
        return ""


def within(expected: Wide, actual: Wide, limit: Wide) -> bool:
    """True where every element is within its limit; NaN equals NaN, an infinity itself."""
    return bool(np.all(distances(expected, actual) <= limit))


def indistinguishable(pool: Sequence[PreparedRequest]) -> int:
    """Number of requests whose first row is within the tolerance of another one's: a server that swaps them is not detected."""
    groups: dict[Any, list[list[tuple[Wide, Wide]]]] = {}
    for request in pool:
        rows = [(_first(e.values), _first(e.limit)) for e in request.expected.values()]
        groups.setdefault(tuple(values.shape for values, _ in rows), []).append(rows)
    return sum(_count_alike(group) for group in groups.values())


def _first(values: Wide) -> Wide:
    return np.atleast_1d(values)[:1].ravel()


def _count_alike(rows: list[list[tuple[Wide, Wide]]]) -> int:
    """Number of rows, all of one shape, that are within the limits of another one."""
    found: set[int] = set()
    seen = [np.stack([row[output][0] for row in rows]) for output in range(len(rows[0]))]
    for i, one in enumerate(rows[1:], start=1):
        left = np.arange(i)
        for (values, limit), others in zip(one, seen, strict=True):
            step = -(-values.size // SAMPLED) or 1
            left = left[_rows_within(values[::step], others[left, ::step], limit[::step])]
            left = left[_rows_within(values, others[left], limit)] if step > 1 else left
        if left.size:
            found |= {i, *left.tolist()}
    return len(found)


def _rows_within(expected: Wide, actual: Wide, limit: Wide) -> Any:
    """Mask of the rows of ``actual`` that are within the limit."""
    return np.all(distances(np.broadcast_to(expected, actual.shape), actual) <= limit, axis=1)
