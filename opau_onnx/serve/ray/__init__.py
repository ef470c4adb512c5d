"""The server on many machines: the same application as a deployment of Ray Serve.

``serve run opau_onnx.serve.ray:app models='{"lenet": "/models/lenet.onnx"}'``, a config file (``opau-deploy ray`` writes
one), or ``opau-serve --engine ray --replicas N``.
"""

from __future__ import annotations

from typing import Any

from opau_onnx.serve.ray.engine import serve_here

__all__ = ["add_servicer", "app", "serve_here"]


def app(args: dict[str, Any]) -> Any:
    """The application, which Ray builds from its arguments.

    Args:
        args: see :func:`opau_onnx.serve.ray.settings.arguments`.

    Returns:
        A ``ray.serve.Application``.

    Raises:
        LoadError: an argument is unknown, out of range, or contradicts another.
    """
    from opau_onnx.serve.ray.deployment import build
    from opau_onnx.serve.ray.settings import arguments

    return build(arguments(args))


def add_servicer(servicer: Any, server: Any) -> None:
    """For Ray's ``grpc_servicer_functions``: see :func:`opau_onnx.serve.ray.calls.add_servicer`."""
    from opau_onnx.serve.ray import calls

    calls.add_servicer(servicer, server)
