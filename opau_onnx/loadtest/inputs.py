"""The pool of distinct requests: random inputs by the model's metadata, or the user's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opau_onnx.io.samples import Samples, read_samples
from opau_onnx.loadtest.config import LoadTestConfig, LoadTestError, Shape
from opau_onnx.loadtest.responses import InferRequest, ServedModel
from opau_onnx.protocol.tensors import DATATYPES, Array, TensorSpec

POOL_SIZE = 64
POOL_BYTES = 256 * 2**20
"""Prepared requests hold at most about so many bytes unless their number is given."""
LARGEST_WHOLE = 10
"""Random whole numbers are below this: they may be places in a small table. Bytes are whole pixels, 0 to 255."""


@dataclass(frozen=True)
class RequestPool:
    """All distinct requests.

    Attributes:
        requests: in the order in which they are sent, over and over.
        source: description of the inputs.
    """

    requests: tuple[InferRequest, ...]
    source: str


def make_request_pool(model: ServedModel, settings: LoadTestConfig) -> RequestPool:
    """Make the requests for a model.

    Raises:
        LoadTestError: shapes or row counts that do not fit the model, or a dynamic axis of unknown size.
        LoadError: data that cannot be read.
    """
    rng = np.random.default_rng(settings.seed)
    samples = None if settings.data is None else read_samples(settings.data, [spec.name for spec in model.inputs])
    given = _given(model.inputs, settings.input_shapes)
    counts = _row_counts(model.inputs, given, settings.rows)
    shapes = None if samples is not None else [_shape(spec, given.get(spec.name)) for spec in model.inputs]
    size = _row_bytes(model.inputs, shapes, samples) * (counts[0] + counts[1]) // 2
    number = settings.pool or max(1, min(max(POOL_SIZE, settings.clients or 0), POOL_BYTES // max(size, 1)))
    every = np.resize(np.arange(counts[0], counts[1] + 1), number)
    rows = [int(n) for n in rng.permutation(every)]
    if samples is not None:
        return RequestPool(tuple(_of_samples(model, samples, rows)), samples.source)
    assert shapes is not None
    named = list(zip(model.inputs, shapes, strict=True))
    requests = (
        InferRequest(i, n, {spec.name: _random(spec, shape, n, rng) for spec, shape in named}) for i, n in enumerate(rows)
    )
    return RequestPool(tuple(requests), f"random numbers, seed {settings.seed}")


def _given(inputs: Sequence[TensorSpec], shapes: Sequence[Shape] | Mapping[str, Shape] | None) -> dict[str, Shape]:
    """The user's shapes by input; each must fit the model's."""
    names = [spec.name for spec in inputs]
    if isinstance(shapes, Mapping):
        if unknown := sorted(shapes.keys() - set(names)):
            raise LoadTestError(f"an input shape is given for {unknown[0]!r}; the model's inputs are {', '.join(names)}")
        found = dict(shapes)
    elif shapes and len(shapes) != len(inputs):
        raise LoadTestError(f"{len(shapes)} input shapes are given; the model has {len(inputs)} inputs: {', '.join(names)}")
    else:
        found = dict(zip(names, shapes or (), strict=False))
    for spec in inputs:
        if spec.name in found and not spec.fits(found[spec.name]):
            raise LoadTestError(f"the input shape {list(found[spec.name])} does not fit {spec} (-1: any size)")
    return found


def _row_counts(inputs: Sequence[TensorSpec], given: Mapping[str, Shape], wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Fewest and most rows of a request."""
    fixed = {spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] >= 0}
    if not any(spec.shape and spec.shape[0] < 0 for spec in inputs):
        own = max(fixed, default=1)
        if wanted not in (None, (own, own)):
            listed = ", ".join(map(str, inputs))
            raise LoadTestError(f"requests of {_span(wanted)} rows are requested, but the model fixes its inputs: {listed}")
        return own, own
    first = next((shape[0] for spec in inputs if (shape := given.get(spec.name)) and spec.shape[0] < 0), 1)
    return wanted or (first, first)


def _span(rows: tuple[int, int] | None) -> str:
    return "" if rows is None else str(rows[0]) if rows[0] == rows[1] else f"{rows[0]} to {rows[1]}"


def _shape(spec: TensorSpec, given: Shape | None) -> Shape:
    """Sizes of an input, -1 for the rows."""
    if given is not None:
        return (-1, *given[1:]) if spec.shape and spec.shape[0] < 0 else given
    if any(size < 0 for size in spec.shape[1:]):
        raise LoadTestError(
            f"{spec} has dynamic axes (-1); give their sizes with --input-shape, e.g. "
            f"{','.join(str(size if size >= 0 else 1 if axis == 0 else 16) for axis, size in enumerate(spec.shape))}"
        )
    return spec.shape


def _row_bytes(inputs: Sequence[TensorSpec], shapes: Sequence[Shape] | None, samples: Samples | None) -> int:
    """Bytes of one row of a request."""
    if samples is not None:
        sizes = [x[:1].size for x in samples.inputs]
    else:
        sizes = [int(np.prod([abs(n) for n in shape], dtype=np.int64)) for shape in shapes or ()]
    return sum(size * spec.dtype.itemsize for size, spec in zip(sizes, inputs, strict=True))


def _random(spec: TensorSpec, shape: Shape, rows: int, rng: np.random.Generator) -> Array:
    sizes = [rows if size < 0 else size for size in shape]
    dtype = spec.dtype
    if dtype.kind == "b":
        return rng.random(sizes) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0, 256 if dtype == np.uint8 else LARGEST_WHOLE, sizes).astype(dtype)
    return rng.standard_normal(sizes).astype(dtype)


def _of_samples(model: ServedModel, samples: Samples, rows: Sequence[int]) -> Any:
    """Requests of consecutive samples, from the first again after the last."""
    arrays = {spec.name: _cast(x, spec, samples.source) for spec, x in zip(model.inputs, samples.inputs, strict=True)}
    start = 0
    for i, n in enumerate(rows):
        places = np.arange(start, start + n) % len(samples)
        start += n
        found = {name: x[places] for name, x in arrays.items()}
        for spec in model.inputs:
            if not spec.fits(found[spec.name].shape):
                shape = list(found[spec.name].shape)
                raise LoadTestError(f"{n} samples of {samples.source} have shape {shape} for {spec} (-1: any size)")
        yield InferRequest(i, n, found)


def _cast(array: Array, spec: TensorSpec, source: str) -> Array:
    same = array.dtype == spec.dtype or (
        array.dtype.kind == "f" and spec.dtype.name in ("float16", "bfloat16", "float32", "float64")
    )
    if not same and not np.can_cast(array.dtype, DATATYPES[spec.datatype].numpy, "safe"):
        raise LoadTestError(f"{source} holds {array.dtype} for {spec.name}, which the model takes as {spec.datatype}")
    return array.astype(spec.dtype)
