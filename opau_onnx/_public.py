"""Public names of a package, loaded when they are first used: importing a package loads neither torch nor onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from opau_onnx._extras import explained


def lazy(
    package: str, where: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its name.
        where: public name -> the module below the package that holds it.
        modules: modules that are attributes too, before they are imported.

    What needs a package that is not installed raises ModuleNotFoundError, with the extra that brings it.
    """

    def get(name: str) -> Any:
        if name not in where and name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            found = importlib.import_module(f"{package}.{where.get(name, name)}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{package}.{name}: {explained(error)}", name=error.name, path=error.path) from error
        return getattr(found, name) if name in where else found

    return get, lambda: sorted({*vars(importlib.import_module(package)), *where})
