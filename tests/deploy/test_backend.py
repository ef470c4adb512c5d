"""What Triton's onnxruntime backend can be told."""

from __future__ import annotations

import pytest

from opau_onnx.deploy.backend import PARAMETERS, check_parameters, split_cuda
from opau_onnx.errors import DeployError


def test_parameters_pass() -> None:
    given = {"intra_op_thread_count": "4", "enable_mem_arena": "0", "memory.enable_memory_arena_shrinkage": "cpu:0;gpu:1"}
    assert given.keys() <= PARAMETERS.keys()
    assert check_parameters(given) == given


def test_cuda_options_go_where_the_backend_reads_them() -> None:
    """It sets four of them to their defaults over the accelerator's section, and reads them from its parameters, as numbers."""
    given = {
        "use_tf32": "0", "gpu_mem_limit": "1000", "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC", "do_copy_in_default_stream": "1",
    }  # fmt: skip
    parameters, accelerator = split_cuda(given)
    assert accelerator == {"use_tf32": "0"}
    assert parameters == {
        "gpu_mem_limit": "1000", "arena_extend_strategy": "1", "cudnn_conv_algo_search": "1", "do_copy_in_default_stream": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threads", "1", "has no parameter 'threads'; it reads intra_op_thread_count"),
        ("intra_op_thread_count", "-1", "expected a whole number"),
        ("enable_mem_arena", "yes", "expected a switch"),
        ("gpu_mem_limit", "5", "an option of the CUDA provider"),
    ],
)
def test_parameters_that_would_be_ignored(key: str, value: str, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        check_parameters({key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("enable_cuda_graph", "1", "results would be wrong"),
        ("device_id", "1", "--gpu"),
        ("user_compute_stream", "1", "the backend sets it"),
        ("use_tf16", "0", "no option 'use_tf16'"),
        ("use_tf32", "off", "expected a switch"),
        ("cudnn_conv_algo_search", "1", "expected EXHAUSTIVE, HEURISTIC or DEFAULT"),
    ],
)
def test_cuda_options_that_cannot_be_set(key: str, value: str, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        split_cuda({key: value})
