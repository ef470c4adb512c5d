"""Load tests of any server of the Open Inference Protocol (KServe V2), with every response checked.

    result = run("http://127.0.0.1:8000", "lenet", LoadTestConfig(clients=16, requests=10_000, expect="lenet.onnx"))
    assert result.ok, result.errors

Data flows from the settings and the model's metadata through prepared requests, each with its expected response, to the
connections that send them, and on to the recorders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy
from opau_onnx.loadtest.config import LoadTestConfig, LoadTestError

if TYPE_CHECKING:
    from opau_onnx.loadtest.api import run, run_async
    from opau_onnx.loadtest.result import LoadResult

__all__ = ["LoadResult", "LoadTestConfig", "LoadTestError", "run", "run_async"]

__getattr__, __dir__ = lazy(__name__, {"LoadResult": "result", "run": "api", "run_async": "api"})
