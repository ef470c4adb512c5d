"""The runtimes that a file can be compared in: one module each, named after its runtime.

A module here defines one subclass of :class:`~opau_onnx.compare.runtime.VerifiedRuntime` whose ``name`` is the module's own,
with dashes, and whose arguments are ``(model, *, part=False)``. Adding the file is all that a new runtime needs: the commands,
the API and the reports find it by :data:`NAMES`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__all__ = ["NAMES", "runtime_class"]

NAMES = tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__)))
"""All runtimes, PyTorch apart; known before anything heavy is loaded."""


def runtime_class(name: str) -> type[Any]:
    """The class of a runtime.

    Raises:
        KeyError: no runtime of this name.
    """
    if name not in NAMES:
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    (found,) = {c for c in vars(module).values() if isinstance(c, type) and c.__dict__.get("name") == name}
    return found
