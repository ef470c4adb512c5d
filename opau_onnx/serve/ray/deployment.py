"""From settings to an application of Ray Serve."""

from __future__ import annotations

from typing import Any

import msgspec
from ray import serve

from opau_onnx.serve.ray.replica import OpauServe
from opau_onnx.serve.ray.settings import Arguments, deployment_options


def build(found: Arguments) -> Any:
    """The ``ray.serve.Application`` of settings."""
    deployment = serve.deployment(serve.ingress()(OpauServe), **deployment_options(found))
    return deployment.bind(msgspec.to_builtins(found.settings))
