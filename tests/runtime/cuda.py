"""A GPU for tests: a skip with its reason where there is none, a failure where one is promised."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import onnxruntime
import pytest

from opau_onnx import create_session
from opau_onnx.core.spec import Config
from opau_onnx.errors import DeviceError, LibraryError
from opau_onnx.runtime.assignment import assignments
from tests.export import single

CUDA = "CUDAExecutionProvider"


@cache
def missing() -> str | None:
    """Why the library's CUDA kernels cannot run here."""
    case = single.Case(Config())
    try:
        session = create_session(single.model(case, ["N"], single.coefficients(case)), "cuda", library=True)
    except (DeviceError, LibraryError) as error:
        return str(error)
    session.run(None, {"x": np.zeros(3, np.float32)})
    return None if {a.provider for a in assignments(session)} == {CUDA} else "the activation is not assigned to CUDA"


def required_cuda() -> None:
    reason = missing()
    if reason is None:
        return
    if os.environ.get("OPAU_REQUIRE_CUDA") == "1":
        pytest.fail(f"OPAU_REQUIRE_CUDA=1, but {reason}")
    pytest.skip(f"no CUDA kernels: {reason}")


class DeviceArray:
    """A numpy array's copy in device memory, ``offset`` elements into its buffer, with sentinels around it."""

    BEFORE, AFTER = 64, 64

    def __init__(self, array: np.ndarray, offset: int = 0) -> None:
        self.shape, self.dtype, self._start = array.shape, array.dtype, self.BEFORE + offset
        buffer = np.full(self._start + array.size + self.AFTER, 77, array.dtype)
        buffer[self._start : self._start + array.size] = array.reshape(-1)
        self._sent = buffer
        # onnxruntime knows no bfloat16 of numpy's: bytes have no such trouble.
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy(buffer.view(np.uint8), "cuda", 0)

    @property
    def address(self) -> int:
        return self._value.data_ptr() + self._start * self.dtype.itemsize

    def put(self, array: np.ndarray) -> None:
        self._sent[self._start : self._start + array.size] = array.reshape(-1)
        self._value.update_inplace(self._sent.view(np.uint8))

    def get(self) -> np.ndarray:
        """The array as it is on the device now; asserts that nothing around it was touched."""
        found = self._value.numpy().view(self.dtype)
        end = self._start + int(np.prod(self.shape))
        outside = np.concatenate([found[: self._start], found[end:]])
        assert np.array_equal(outside, np.full(outside.shape, 77, self.dtype)), "written outside of the tensor"
        return found[self._start : end].reshape(self.shape)
