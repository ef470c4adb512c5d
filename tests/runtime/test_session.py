"""What create_session promises besides the values."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from opau_onnx import create_session, export_model, get_library_path
from opau_onnx.core.spec import Config
from opau_onnx.errors import DeviceError, LibraryError, SpecError
from opau_onnx.io.quiet import quiet
from opau_onnx.native import library
from opau_onnx.nn import HP1, HP2
from opau_onnx.runtime.assignment import assignments
from tests.custom_ops.library import required_library
from tests.export import single
from tests.export.single import Case

CASE = Case(Config())
X = {"x": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def file() -> Any:
    return single.model(CASE, ["N"], single.coefficients(CASE))


def test_path_bytes_and_proto(file: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(file.SerializeToString())
    results = [create_session(m, "cpu").run(None, X)[0] for m in (path, str(path), file.SerializeToString(), file)]
    assert all(np.array_equal(results[0], y) for y in results)


def test_options_are_registered_once_and_stay_the_callers(file: Any) -> None:
    required_library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for _ in range(3):
        session = create_session(file, "cpu", session_options=options)
    assert [a.implementation for a in assignments(session)] == ["kernel"]
    assert session.get_session_options().intra_op_num_threads == 1
    onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_options_on_which_the_user_registered_the_library(file: Any) -> None:
    required_library()
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    session = create_session(file, "cpu", library=False, session_options=options)
    assert [a.implementation for a in assignments(session)] == ["kernel"]
    with pytest.raises(LibraryError, match="was registered on these session options before; pass library=False"):
        create_session(file, "cpu", session_options=options)


def test_it_says_what_runs(file: Any, caplog: pytest.LogCaptureFixture) -> None:
    required_library()
    with caplog.at_level(logging.INFO, logger="opau_onnx"):
        create_session(file, "cpu")
    assert "1 activations by the compiled kernel on CPUExecutionProvider" in caplog.text


def test_a_missing_library_is_said(file: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.OVERRIDE, "/nowhere/lib.so")
    monkeypatch.setattr(library, "_said", set())
    with caplog.at_level(logging.INFO, logger="opau_onnx"):
        with quiet():  # where nobody would see it, it does not count as said
            create_session(file, "cpu")
        for _ in range(2):
            session = create_session(file, "cpu")
    assert [a.implementation for a in assignments(session)] == ["function"]
    said = [r for r in caplog.records if "/nowhere/lib.so" in r.message]
    assert [(r.levelname, r.message.partition(",")[0]) for r in said] == [("WARNING", "compiled kernels are not installed")]
    with pytest.raises(LibraryError, match=r"cannot be used: OPAU_LIBRARY is '/nowhere/lib.so'"):
        create_session(file, "cpu", library=True)
    with pytest.raises(LibraryError, match=r"there is no library at /other.so"):
        create_session(file, "cpu", library="/other.so")


def test_a_newer_version_of_the_domain_is_not_taken_over(file: Any) -> None:
    required_library()
    newer = type(file)()
    newer.CopyFrom(file)
    for entry in newer.opset_import:
        if entry.domain:
            entry.version = 2
    with pytest.raises(LibraryError, match=r"uses version 2 of ai.opau; the library has version 1"):
        create_session(newer, "cpu", library=True)


def test_a_model_without_activations() -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert assignments(create_session(plain, "cpu")) == []


def test_cuda_is_never_replaced_silently(file: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(DeviceError, match="device='cuda' was asked for, but"):
        create_session(file, "cuda")
    assert create_session(file, "auto").get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("model", "device", "error", "message"),
    [
        (b"junk", "cpu", SpecError, "not an ONNX model"),
        ("missing.onnx", "cpu", FileNotFoundError, "missing.onnx"),
        (b"", "gpu", SpecError, "device is 'gpu'; expected 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_bad_input(model: Any, device: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        create_session(model, device)


def test_an_onnxruntime_that_ignores_overloads_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two, one = (nn.Sequential(nn.Linear(4, 4), *rest).eval() for rest in ((HP1(), HP2()), (HP1(), HP1())))
    for model in (two, one):
        export_model(model, tmp_path / f"{len(model)}{model is two}.onnx", torch.zeros(1, 4))
    monkeypatch.setattr(onnxruntime, "__version__", "1.26.3")
    with pytest.raises(SpecError, match=r"1.26.3 ignores.*Install onnxruntime 1.27"):
        create_session(tmp_path / "3True.onnx")
    create_session(tmp_path / "3False.onnx")
