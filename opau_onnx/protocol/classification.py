"""The classification extension: the largest values of an output with their indices, instead of the output."""

from __future__ import annotations

from typing import Any

import numpy as np

from opau_onnx.protocol.tensors import Array


def top_classes(array: Array, count: int, *, batched: bool) -> Array:
    """The classes with the largest values, each as ``value:index`` with six digits behind the point, as Triton writes them.

    Args:
        array: the output, of any numeric type.
        count: of classes; the result has as many as there are, where there are fewer.
        batched: whether axis 0 is that of the rows, each of which has its own classes; all other axes are one.

    Returns:
        Bytes, of shape [rows, classes] or [classes]: the largest value first, NaN last, of equal ones the lowest index first.
    """
    rows = array.reshape(len(array), -1) if batched and array.ndim else array.reshape(1, -1)
    wide = rows if rows.dtype.kind in "biu" else rows.astype(np.float64)
    found = np.empty((len(rows), min(count, rows.shape[1])), object)
    for i, row in enumerate(wide):
        for j, index in enumerate(_largest(row, found.shape[1])):
            found[i, j] = f"{_text(row[index])}:{index}".encode()
    return found if batched and array.ndim else found[0]


def _largest(row: Array, count: int) -> Array:
    """Indices of the largest values."""
    downwards = ~row if row.dtype.kind in "biu" else -row  # ~ turns the order around also where - would overflow
    return np.argsort(downwards, kind="stable")[:count]


def _text(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, np.floating) else str(int(value))
