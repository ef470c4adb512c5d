"""The configuration beside saved coefficients: which function they belong to, as an array that every format holds.

Numbers alone do not say their basis: HP-2's coefficients have the shapes of HP-1's. Saved is JSON text as bytes in an array of
one size, so that what wants tensors takes it (safetensors, sharded checkpoints), and averages and casts to 16 bits leave it
readable: ASCII codes are whole numbers below 128, which float16 and bfloat16 hold.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core.spec import Config
from opau_onnx.errors import SpecError

SIZE = 128
"""Bytes; spaces fill what the text leaves."""


def pack(config: Config) -> npt.NDArray[np.uint8]:
    """A configuration as an array of shape (SIZE,)."""
    content = {
        "basis": config.basis, "form": config.form, "degrees": list(config.degrees), "groups": config.groups,
        "axis": config.axis,
    }  # fmt: skip
    text = json.dumps(content, separators=(",", ":")).ljust(SIZE).encode()
    return np.frombuffer(text, dtype=np.uint8).copy()


def unpack(values: Any) -> Config:
    """The configuration in such an array, of any number type.

    Raises:
        SpecError: it holds none.
    """
    try:
        numbers = np.rint(np.asarray(values, dtype=np.float64).reshape(-1))
        content = json.loads(bytes(int(v) for v in numbers).decode())
        basis, form, degrees, groups, axis = (content[k] for k in ("basis", "form", "degrees", "groups", "axis"))
        return Config(basis, form, tuple(degrees), groups, axis)
    except SpecError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise SpecError(
            f"the saved configuration of an activation cannot be read ({type(error).__name__}: {error}); expected what "
            "get_extra_state() gives"
        ) from None


def check(own: Config, values: Any) -> None:
    """Raise SpecError unless saved coefficients belong to the function ``own``."""
    saved = unpack(values)
    same = (saved.basis, saved.form, saved.degrees, saved.groups) == (own.basis, own.form, own.degrees, own.groups)
    if not same or (own.groups > 1 and saved.axis != own.axis):
        raise SpecError(
            f"the saved coefficients are of {saved}; this module computes {own}, another function. Make it with the saved "
            f'configuration: OrthogonalPade("{saved.basis}", {saved.degrees}, "{saved.form}"'
            + (f", groups={saved.groups}, axis={saved.axis})" if saved.groups > 1 else ")")
        )
