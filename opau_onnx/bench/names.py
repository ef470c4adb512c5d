"""Names of the subjects; imports nothing heavy, so that the command can check its arguments at once."""

from __future__ import annotations

from typing import NamedTuple


class Name(NamedTuple):
    """Label of a subject in tables, and the owner of its threads."""

    label: str
    pool: str


SUBJECTS: dict[str, Name] = {
    "kernel": Name("opau kernel", "onnxruntime"),
    "relu": Name("Relu", "onnxruntime"),
    "gelu": Name("Gelu", "onnxruntime"),
    "tanh": Name("Tanh", "onnxruntime"),
    "identity": Name("Identity", "onnxruntime"),
    "function": Name("function body", "onnxruntime"),
    "torch": Name("torch eager", "torch"),
    "compile": Name("torch.compile", "torch"),
    "torch-relu": Name("torch relu", "torch"),
    "copy": Name("torch copy", "torch"),
}
STANDARD = {"relu": "Relu", "gelu": "Gelu", "tanh": "Tanh", "identity": "Identity"}
"""Subject -> operator of ONNX."""
DTYPES = ("float32", "float16", "bfloat16", "float64")
NETWORKS: dict[str, str] = {
    "kernel": "LeNet HP-1, kernel",
    "relu": "LeNet ReLU",
    "function": "LeNet HP-1, function body",
}


def human(elements: int) -> str:
    """E.g. "64 Ki" for 65,536."""
    for power, unit in ((30, "Gi"), (20, "Mi"), (10, "Ki")):
        if elements >= 1 << power and elements % (1 << power) == 0:
            return f"{elements >> power} {unit}"
    return f"{elements:,}"
