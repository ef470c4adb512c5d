"""Extras of the package: the one that brings a module which is missing."""

from __future__ import annotations

EXTRAS = {
    "cpu": ("onnxruntime",),
    "export": ("torch", "scipy", "safetensors", "jinja2"),
    "plot": ("matplotlib",),
    "keras": ("keras",),
    "serve": (
        "uvicorn",
        "starlette",
        "httptools",
        "uvloop",
        "tritonclient",
        "grpc",
        "grpc_health",
        "msgspec",
        "orjson",
        "prometheus_client",
        "structlog",
        "pynvml",
    ),
    "otel": ("opentelemetry",),
    "ray": ("ray", "grpc_reflection", "yaml"),
}
"""Extra -> the top-level modules for which it is asked."""


def remedy(module: str) -> str | None:
    """Command to type where a module is missing; None where no extra brings it.

    Args:
        module: as in an import, e.g. "torch" or "google.protobuf".
    """
    top = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), None)
    if extra is None:
        return None
    # CUDA's build of onnxruntime replaces the other; nothing but the user can say which is wanted.
    other = ", or 'opau-onnx[gpu]' to run on CUDA" if extra == "cpu" else ""
    return f"pip install 'opau-onnx[{extra}]'{other}"


def explained(error: ModuleNotFoundError) -> str:
    """A failed import in words: the missing module and what to install."""
    found = remedy(error.name or "")
    if found is None:
        return f"{error}; install the package that holds it"
    return f"{str(error.name).partition('.')[0]} is not installed, and this needs it: {found}"
