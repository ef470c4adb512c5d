"""An ONNX file as the reference: what is nudged, how often, and what is open meanwhile."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import opau_onnx
from opau_onnx.compare import file_reference, opening, policies
from opau_onnx.compare.file_reference import FileReference
from opau_onnx.nn import HP1

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), HP1(), nn.Linear(8, 3)).eval()
    return opau_onnx.export_model(model, tmp_path_factory.mktemp("file") / "m.onnx", X, validate=False).path


def test_one_nudged_file_is_open_at_a_time_for_many_batches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, alive, most, real = 0, weakref.WeakSet[Any](), 0, file_reference.open_model

    def counted(*arguments: Any) -> Any:
        nonlocal opened, most
        gc.collect()
        runtime = real(*arguments)
        opened += 1
        alive.add(runtime)
        most = max(most, len(alive))
        return runtime

    monkeypatch.setattr(file_reference, "open_model", counted)
    batches = [(str(n), (X * n,)) for n in range(1, 8)]
    reference = FileReference(path, (X,), seed=0)
    together = list(reference.expect_all(batches))
    assert (opened, most) == (policies.NUDGES, 1)
    apart = [reference.expect(inputs) for _, inputs in batches]
    assert opened == policies.NUDGES * 8
    for one, other in zip(together, apart, strict=True):
        assert (one[0].tolerance > 0).all()
        assert np.array_equal(one[0].tolerance, other[0].tolerance)


def test_weights_beside_a_large_file_are_nudged_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf holds no more than 2 GiB."""
    (inside,) = FileReference(path, (X,), seed=0).expect((X,))
    monkeypatch.setattr(opening, "IN_ONE_FILE", 0)
    (beside,) = FileReference(path, (X,), seed=0).expect((X,))
    assert np.array_equal(inside.tolerance, beside.tolerance)
    assert np.array_equal(inside.values, beside.values)


def test_another_seed_nudges_otherwise(path: Path) -> None:
    (one,), (other,) = (FileReference(path, (X,), seed=seed).expect((X,)) for seed in (0, 100))
    assert not np.array_equal(one.tolerance, other.tolerance)
