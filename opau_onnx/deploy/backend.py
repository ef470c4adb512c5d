"""Parameters of Triton's onnxruntime backend.

From its sources: src/onnxruntime.cc of triton-inference-server/onnxruntime_backend, as it was in 2026. It ignores a parameter
that it does not know, without a word; so these are the only ones that are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from opau_onnx.errors import DeployError

_SWITCH, _COUNT = ("a switch: 0 or 1", r"[01]"), ("a whole number", r"[0-9]{1,18}")
PARAMETERS = {
    "intra_op_thread_count": _COUNT,
    "inter_op_thread_count": _COUNT,
    "execution_mode": ("0 (one operator after the other) or 1 (side by side)", r"[01]"),
    "enable_mem_arena": _SWITCH,
    "enable_mem_pattern": _SWITCH,
    "memory.enable_memory_arena_shrinkage": ("devices such as cpu:0;gpu:0", r"(cpu|gpu):[0-9]+(;(cpu|gpu):[0-9]+)*"),
    "session.use_device_allocator_for_initializers": _SWITCH,
    "share_session_between_instances": _SWITCH,
}
"""The backend's parameters: what their values are, in words and as a pattern."""

_AS_PARAMETERS = {
    "gpu_mem_limit": ("bytes", r"[0-9]{1,20}", {}),
    "arena_extend_strategy": (
        "kNextPowerOfTwo or kSameAsRequested", "kNextPowerOfTwo|kSameAsRequested",
        {"kNextPowerOfTwo": "0", "kSameAsRequested": "1"},
    ),
    "cudnn_conv_algo_search": (
        "EXHAUSTIVE, HEURISTIC or DEFAULT", "EXHAUSTIVE|HEURISTIC|DEFAULT",
        {"EXHAUSTIVE": "0", "HEURISTIC": "1", "DEFAULT": "2"},
    ),
    "do_copy_in_default_stream": (*_SWITCH, {}),
}  # fmt: skip
"""Options of the CUDA provider that the backend reads from its parameters, some as numbers. Those that are not there it sets to
their defaults, whatever the section of the CUDA accelerator says; so in that section they would be lost."""

_AS_ACCELERATOR = {
    "cudnn_conv_use_max_workspace": _SWITCH,
    "cudnn_conv1d_pad_to_nc1d": _SWITCH,
    "enable_skip_layer_norm_strict_mode": _SWITCH,
    "fuse_conv_bias": _SWITCH,
    "prefer_nhwc": _SWITCH,
    "sdpa_kernel": _COUNT,
    "tunable_op_enable": _SWITCH,
    "tunable_op_max_tuning_duration_ms": _COUNT,
    "tunable_op_tuning_enable": _SWITCH,
    "use_ep_level_unified_stream": _SWITCH,
    "use_tf32": _SWITCH,
}
_REFUSED = {
    "enable_cuda_graph": "a graph replays the shapes and addresses it was recorded with, and the backend runs every batch with "
    "its own: results would be wrong. opau-serve --cuda-graph pads batches and keeps addresses",
    "device_id": "the backend sets it for each instance; choose devices with --gpus",
    "has_user_compute_stream": "the backend sets it",
    "user_compute_stream": "the backend sets it",
}


def check_parameters(given: Mapping[str, str]) -> dict[str, str]:
    """The parameters, if the backend reads them and they have values that it can read.

    Raises:
        DeployError: one is unknown or has a wrong value.
    """
    for key, value in given.items():
        if key in _AS_PARAMETERS:
            raise DeployError(f"{key} is an option of the CUDA provider; give it as one (--cuda-option {key}=...)")
        if key not in PARAMETERS:
            raise DeployError(f"the onnxruntime backend has no parameter {key!r}; it reads {', '.join(PARAMETERS)}")
        _check(key, value, *PARAMETERS[key])
    return dict(given)


def split_cuda(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(parameters of the backend, parameters of the CUDA accelerator) that set these options of onnxruntime's CUDA provider.

    Raises:
        DeployError: one is unknown, not the user's to set, or has a wrong value.
    """
    parameters, accelerator = {}, {}
    for key, value in given.items():
        if key in _REFUSED:
            raise DeployError(f"{key} cannot be set: {_REFUSED[key]}")
        if key in _AS_PARAMETERS:
            words, pattern, numbers = _AS_PARAMETERS[key]
            _check(key, value, words, pattern)
            parameters[key] = numbers.get(value, value)
        elif key in _AS_ACCELERATOR:
            _check(key, value, *_AS_ACCELERATOR[key])
            accelerator[key] = value
        else:
            known = ", ".join(sorted({*_AS_PARAMETERS, *_AS_ACCELERATOR}))
            raise DeployError(f"onnxruntime's CUDA provider has no option {key!r} that can be set here; there are {known}")
    return parameters, accelerator


def _check(key: str, value: str, words: str, pattern: str) -> None:
    if not re.fullmatch(pattern, value):
        raise DeployError(f"{key} is {value!r}; expected {words}")
