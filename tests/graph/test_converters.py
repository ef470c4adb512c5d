"""Exported files after converters to float16, which know nothing of our op and convert its coefficients too."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from opau_onnx import export_model
from opau_onnx.core.spec import OP_TYPE
from opau_onnx.errors import LibraryError
from opau_onnx.nn import HP1, OrthogonalPade
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.session import create_session
from tests.custom_ops.library import required_library

X = torch.linspace(-4, 4, 24).reshape(4, 6)


def converted(folder: Path, activation: nn.Module, **options: Any) -> tuple[nn.Module, onnx.ModelProto]:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), activation, nn.Linear(6, 2)).eval()
    export_model(net, folder / "net.onnx", X, validate=False)
    return net, convert_float_to_float16(onnx.load(folder / "net.onnx"), **options)


def difference(net: nn.Module, session: Any) -> float:
    (wanted,) = session.get_inputs()
    x = X.numpy().astype(np.float16 if "16" in wanted.type else np.float32)
    with torch.no_grad():
        return float(np.abs(session.run(None, {wanted.name: x})[0].astype(np.float32) - net(X).numpy()).max())


@pytest.mark.parametrize("activation", [HP1(), OrthogonalPade("laguerre", (5, 4), "abs_sum"), HP1(groups=3, axis=1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"keep_io_types": True}], ids=str)
def test_the_body_is_right_with_float16_coefficients(activation: nn.Module, options: Any, tmp_path: Path) -> None:
    """X0, 65536, is infinite in float16: everything was NaN."""
    net, model = converted(tmp_path, activation, **options)
    (node,) = [n for n in model.graph.node if n.op_type == OP_TYPE]
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {kinds[name] for name in node.input[1:]} == {onnx.TensorProto.FLOAT16}
    assert difference(net, create_session(model, "cpu", library=False)) < 0.01


def test_the_kernels_name_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    required_library()
    net, model = converted(tmp_path, HP1())
    with pytest.raises(LibraryError, match="have 16 bits, as converters to float16 leave them"):
        create_session(model, "cpu", library=True)
    with caplog.at_level(logging.WARNING, "opau_onnx"):
        session = create_session(model, "cpu")
    assert "op_block_list=['OrthogonalPade']" in caplog.text
    assert difference(net, session) < 0.01


def test_a_converter_that_is_told_to_keep_them(tmp_path: Path) -> None:
    required_library()
    net, model = converted(tmp_path, HP1(), op_block_list=[OP_TYPE])
    session = create_session(model, "cpu", library=True)
    assert {a.implementation for a in assignments(session)} == {"kernel"}
    assert difference(net, session) < 0.01


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_body_of_a_float64_file_computes_in_float64(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), HP1()).eval().to(getattr(torch, dtype))
    x = X.to(getattr(torch, dtype))
    export_model(net, tmp_path / "net.onnx", x, validate=False, dtype=dtype)
    session = create_session(tmp_path / "net.onnx", "cpu", library=False)
    with torch.no_grad():
        error = np.abs(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0] - net(x).numpy()).max()
    assert error < (1e-13 if dtype == "float64" else 1e-5)
