"""Check of responses: the same bytes as one that was found right before, else the same numbers within the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opau_onnx.compare.tensors import distances
from opau_onnx.loadtest.answers import Answer, BadAnswerError, StatusError, Tensor
from opau_onnx.loadtest.recorder import RIGHT, WRONG
from opau_onnx.loadtest.tolerance import Tolerance, Wide, scale_of

REMEMBERED = 8
"""So many different right answers to one request are known by their bytes: a few orders of summation give a few results."""
GLANCE = 1024
"""Elements in which two rows are compared before the rest is looked at."""
DESCRIBED = 20
"""So many wrong answers are looked for among the other requests' answers."""


@dataclass(frozen=True)
class Expected:
    """One output of one request.

    Attributes:
        tensor: as it should be.
        values: its numbers.
        limit: how far each may be off.
    """

    tensor: Tensor
    values: Wide
    limit: Wide


@dataclass
class Request:
    """A prepared request: the bytes to send, and what must come back.

    Attributes:
        number, id: its place in the pool, and what the server is told of it.
        rows: of its inputs.
        message: the bytes that are sent.
        expected: by output.
        known: contents of answers that were found right.
    """

    number: int
    id: str
    rows: int
    message: bytes
    expected: Mapping[str, Expected]
    known: list[Any] = field(default_factory=list)


def expectations(answers: Sequence[Mapping[str, Tensor]], tolerance: Tolerance) -> list[dict[str, Expected]]:
    """Expected response to each request, from the right responses to all of them."""
    scales = {name: scale_of(answer[name].array() for answer in answers) for name in answers[0]}
    return [{name: _expected(t, tolerance, scales[name]) for name, t in answer.items()} for answer in answers]


def _expected(tensor: Tensor, tolerance: Tolerance, scale: float) -> Expected:
    values = tensor.array().astype(np.float64)
    return Expected(tensor, values, tolerance.limit(values, tensor.datatype, scale))


class ResponseChecker:
    """Checks every answer.

    Args:
        read: makes an :class:`Answer` of a protocol's content; it raises BadAnswerError or StatusError.
        pool: all prepared requests.
    """

    def __init__(self, read: Callable[[Any], Answer], pool: Sequence[Request]) -> None:
        self._read, self._pool, self._described = read, pool, 0

    def check(self, request: Request, content: Any) -> tuple[str, str]:
        """(:data:`RIGHT`, "") or what the answer is instead, with the reason."""
        if content in request.known:
            return RIGHT, ""
        try:
            answer = self._read(content)
            self._compare(request, answer)
        except BadAnswerError as error:
            return WRONG, str(error)
        except StatusError as error:
            return f"{error.status} with an error", error.reason
        request.known.append(content)
        del request.known[:-REMEMBERED]
        return RIGHT, ""

    def _compare(self, request: Request, answer: Answer) -> None:
        if answer.id not in ("", request.id):
            raise BadAnswerError("it bears the id of another request")
        if missing := request.expected.keys() - answer.outputs.keys():
            raise BadAnswerError(f"output {min(missing)!r} is missing")
        for name, want in request.expected.items():
            got = answer.outputs[name]
            if got == want.tensor:
                continue
            if (got.datatype, got.shape) != (want.tensor.datatype, want.tensor.shape):
                raise BadAnswerError(
                    f"output {name!r} is {got.datatype} {list(got.shape)}; expected {want.tensor.datatype} "
                    f"{list(want.tensor.shape)}"
                )
            values = got.array().astype(np.float64)
            if not within(want.values, values, want.limit):
                raise BadAnswerError(self._wrong(request, name, want, values))

    def _wrong(self, request: Request, name: str, want: Expected, values: Wide) -> str:
        excess = distances(want.values, values) - want.limit
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
        text = (
            f"request {request.number}: {name}{list(at)} is {values[at]:.6g}, expected {want.values[at]:.6g} within "
            f"{want.limit[at]:.2g}"
        )
        self._described += 1
        if self._described > DESCRIBED or not at:
            return text
        return text + self._whose(name, values[at[0]])

    def _whose(self, name: str, row: Wide) -> str:
        """True where another request's row was returned."""
        for request in self._pool:
            want = request.expected[name]
            if want.values.shape[1:] != row.shape:
                continue
            for i, (values, limit) in enumerate(zip(want.values, want.limit, strict=True)):
                if within(values, row, limit):
                    return f"; the row is row {i} of request {request.number}"
        return ""


def within(expected: Wide, actual: Wide, limit: Wide) -> bool:
    """True where every number is within its limit; NaN equals NaN, an infinity itself."""
    return bool(np.all(distances(expected, actual) <= limit))


def lookalikes(pool: Sequence[Request]) -> int:
    """Requests whose first row could be taken for that of another one: if those two were mixed up, nobody would see it."""
    groups: dict[Any, list[list[tuple[Wide, Wide]]]] = {}
    for request in pool:
        rows = [(_first(e.values), _first(e.limit)) for e in request.expected.values()]
        groups.setdefault(tuple(values.shape for values, _ in rows), []).append(rows)
    return sum(_alike(group) for group in groups.values())


def _first(values: Wide) -> Wide:
    return np.atleast_1d(values)[:1].ravel()


def _alike(rows: list[list[tuple[Wide, Wide]]]) -> int:
    """How many of these, all of one shape, are within the limits of another one."""
    found: set[int] = set()
    seen = [np.stack([row[output][0] for row in rows]) for output in range(len(rows[0]))]
    for i, one in enumerate(rows[1:], start=1):
        left = np.arange(i)
        for (values, limit), others in zip(one, seen, strict=True):
            step = -(-values.size // GLANCE) or 1
            left = left[_near(values[::step], others[left, ::step], limit[::step])]
            left = left[_near(values, others[left], limit)] if step > 1 else left
        if left.size:
            found |= {i, *left.tolist()}
    return len(found)


def _near(expected: Wide, actual: Wide, limit: Wide) -> Any:
    """Which rows of ``actual`` are within the limit."""
    return np.all(distances(np.broadcast_to(expected, actual.shape), actual) <= limit, axis=1)
