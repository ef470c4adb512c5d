"""Files that put a model into production elsewhere: a Triton model repository, a Ray Serve config file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opau_onnx._public import lazy
from opau_onnx.errors import DeployError

if TYPE_CHECKING:
    from opau_onnx.deploy.options import Options
    from opau_onnx.deploy.ray import deploy_ray
    from opau_onnx.deploy.triton import deploy_triton

__all__ = ["DeployError", "Options", "deploy_ray", "deploy_triton"]
__getattr__, __dir__ = lazy(__name__, {"Options": "options", "deploy_ray": "ray", "deploy_triton": "triton"})
