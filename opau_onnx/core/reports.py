"""The one serialiser of reports: records as plain data for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar


class Reported:
    """Base of dataclasses that stand in a report under the names of their fields.

    Attributes:
        hidden: fields that are left out.
        derived: properties that are added.
    """

    hidden: ClassVar[tuple[str, ...]] = ()
    derived: ClassVar[tuple[str, ...]] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, as :func:`plain` gives it."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in self.hidden]  # type: ignore[arg-type]
        return {name: plain(getattr(self, name)) for name in (*names, *self.derived)}


def plain(value: Any) -> Any:
    """Convert to plain data for JSON: infinities and NaN as strings, paths as text, sequences as lists, records as objects."""
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # of numpy
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
