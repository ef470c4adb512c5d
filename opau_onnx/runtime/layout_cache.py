"""The cache of rewritten models: what an entry's key holds, and entries that are taken only as they were written.

A rewritten file fits one processor, one version of onnxruntime, one op library, and the session options that shape it. Not all
of these can be read from ``onnxruntime.SessionOptions``: what they do to a model's dimensions is found by a small model that
goes through the same options.
"""

from __future__ import annotations

import hashlib
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from opau_onnx._version import __version__

ENTRIES = (
    *(f"optimization.{n}" for n in (
        "constant_folding_max_output_size_in_bytes", "disable_specified_optimizers", "enable_cast_chain_elimination",
        "enable_gelu_approximation", "minimal_build_optimizations",
    )),
    *(f"session.{n}" for n in (
        "allow_released_opsets_only", "debug_layout_transformation", "disable_aot_function_inlining", "disable_cpu_ep_fallback",
        "disable_double_qdq_remover", "disable_prepacking", "disable_qdq_constant_folding", "disable_quant_qdq",
        "dynamic_block_base", "enable_dq_matmulnbits_fusion", "enable_quant_qdq_cleanup", "function_expansion_byte_limit",
        "function_expansion_node_limit", "graph_optimizations_loop_level", "layer_assignment_settings", "load_model_format",
        "max_shape_override", "model_external_initializers_file_folder_path", "name_based_layer_assignment",
        "node_partition_config_file", "qdq_matmulnbits_accuracy_level", "qdq_matmulnbits_block_size", "qdqisint8allowed",
        "save_model_format", "set_denormal_as_zero", "strict_shape_type_inference", "use_ort_model_bytes_directly",
        "x64quantprecision",
    )),
    *(f"mlas.{n}" for n in (
        "disable_kleidiai", "enable_gemm_fastmath_arm64_bfloat16", "nchwc_depthwise_sliding",
        "nchwc_pointwise_conv_max_input_channel_batch", "qnbit.force_fp32", "use_lut_gemm",
    )),
)  # fmt: skip
"""Configuration entries that shape a graph or its results (onnxruntime_session_options_config_keys.h, up to 1.32)."""
NOT_SHAPING = ("enable_profiling", "log_severity_level", "log_verbosity_level", "logid", "optimized_model_filepath",
               "profile_file_prefix")  # fmt: skip
"""Attributes of session options that only say what is written besides."""
_SIGNED = b"opau_onnx layout 1 "


class UnknownOptionsError(Exception):
    """Session options whose effect on a model is unknown; the message names them."""


def key(model: bytes, library: str, options: Any, processor: str | None = None) -> str:
    """Name of the entry for a model under these options.

    Args:
        processor: name and instruction sets; default: this machine's.

    Raises:
        UnknownOptionsError: the options change more than can be told.
        OSError: the library cannot be read.
    """
    import onnxruntime

    parts = [__version__, onnxruntime.__version__, platform.machine(), this_processor() if processor is None else processor]
    parts += [repr(_attributes(options)), repr(_entries(options)), repr(_effects(model, options))]
    digest = hashlib.sha256("\n".join(parts).encode())
    for content in (Path(library).read_bytes(), model):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def signed(name: str, content: bytes) -> bytes:
    """An entry of this name, with the hash of both in front."""
    return _SIGNED + _hash(name, content) + b"\n" + content


def verified(name: str, entry: bytes) -> bytes | None:
    """The content of an entry; None where it is not what was written under this name."""
    head, _, content = entry.partition(b"\n")
    return content if head == _SIGNED + _hash(name, content) else None


def _hash(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + content).hexdigest().encode()


def this_processor() -> str:
    """Name and instruction sets, which decide the blocks."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor()


def _attributes(options: Any) -> list[tuple[str, str]]:
    names = (n for n in dir(options) if not n.startswith("_") and n not in NOT_SHAPING)
    return [(n, str(v)) for n in names if not callable(v := getattr(options, n))]


def _entries(options: Any) -> list[tuple[str, str]]:
    found = []
    for name in ENTRIES:
        with suppress(RuntimeError):  # not set
            found.append((name, options.get_session_config_entry(name)))
    return found


def _effects(model: bytes, options: Any) -> list[tuple[str, list[Any]]]:
    """Shapes of the inputs as a session under the options has them: overrides of free dimensions cannot be read otherwise."""
    import onnxruntime

    graph = onnx.load_model_from_string(model).graph
    stored = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in stored and v.type.HasField("tensor_type")]
    nodes = [helper.make_node("Identity", [v.name], [f"copy of {v.name}"]) for v in inputs]
    if not nodes:
        return []
    outputs = [helper.make_empty_tensor_value_info(node.output[0]) for node in nodes]
    probe = helper.make_model(
        helper.make_graph(nodes, "probe", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnknownOptionsError(f"what the session options do to the model's inputs cannot be told ({error})") from None
    return [(v.name, v.shape) for v in session.get_inputs()]
