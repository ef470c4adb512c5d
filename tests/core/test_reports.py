"""The serialiser of reports."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from opau_onnx.core.reports import Reported, plain


@dataclass(frozen=True)
class Part:
    value: float


@dataclass
class Record(Reported):
    hidden = ("secret",)
    derived = ("double",)

    name: str
    parts: list[Part] = field(default_factory=list)
    secret: str = "token"

    @property
    def double(self) -> float:
        return 2.0 * sum(p.value for p in self.parts)


class Own:
    def as_dict(self) -> dict[str, Any]:
        return {"limit": math.inf}


def test_fields_and_derived_properties_without_the_hidden_ones() -> None:
    assert Record("a", [Part(0.5), Part(2.0)]).as_dict() == {
        "name": "a",
        "parts": [{"value": 0.5}, {"value": 2.0}],
        "double": 5.0,
    }


def test_everything_becomes_json() -> None:
    found = plain(
        {
            1: (math.inf, -math.inf, math.nan, 0.25),
            "array": np.arange(3, dtype=np.int32),
            "scalar": np.float32(0.5),
            "bool": np.bool_(True),
            "path": Path("a") / "b",
            "own": [Own(), None, True, "text"],
        }
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "1": ["inf", "-inf", "nan", 0.25], "array": [0, 1, 2], "scalar": 0.5, "bool": True, "path": "a/b",
        "own": [{"limit": "inf"}, None, True, "text"],
    }  # fmt: skip
