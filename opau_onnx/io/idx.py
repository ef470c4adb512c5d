"""The idx format of MNIST and its kin: a file of bytes with its shape, gzipped or not. Needs numpy alone."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from opau_onnx.errors import LoadError

Bytes = npt.NDArray[np.uint8]
MOST_BYTES = 1 << 30
"""No array of a data set is larger; a header that says so is a damaged or a hostile one."""
_UBYTE = 0x08


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_idx(path: Path, rank: int, hint: str = "") -> Bytes:
    """An idx file of bytes: two zero bytes, the type, the rank, big-endian sizes, then the data.

    Args:
        path: the file; gzipped if its name ends in .gz.
        rank: the number of dimensions that it must have.
        hint: how to get a good file, for the message of an error.

    Raises:
        LoadError: it cannot be read, is cut short or too long, or is of another type or rank.
    """
    after = f"; {hint}" if hint else ""
    kind = "gzip" if path.suffix == ".gz" else "idx"
    try:
        with gzip.open(path, "rb") if kind == "gzip" else path.open("rb") as stream:
            return _array(stream, path, rank, after)
    except FileNotFoundError:
        raise LoadError(f"{path} does not exist{after}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise LoadError(f"{path} cannot be read as {'a gzip' if kind == 'gzip' else 'an idx'} file: {error}{after}") from None


def _array(stream: _Stream, path: Path, rank: int, after: str) -> Bytes:
    magic, sizes = stream.read(4), stream.read(4 * rank)
    wanted = bytes((0, 0, _UBYTE, rank))
    if magic != wanted:
        raise LoadError(f"{path} starts with {magic.hex() or 'nothing'}, an idx file of this kind with {wanted.hex()}{after}")
    if len(sizes) < 4 * rank:
        raise LoadError(f"{path} ends within its header{after}")
    shape = tuple(int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(rank))
    expected = math.prod(shape)
    if expected > MOST_BYTES:
        raise LoadError(f"{path} announces {shape}, {expected} bytes; expected at most {MOST_BYTES}{after}")
    data = stream.read(expected + 1)  # never more than it announces: a small gzip file can hold terabytes
    if len(data) != expected:
        held = str(len(data)) if len(data) < expected else f"more than {expected}"
        raise LoadError(f"{path} holds {held} bytes of data; its header says {shape}, {expected} bytes{after}")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
