"""Files that put a model into production elsewhere: a Triton model repository, a Ray Serve config file."""

from __future__ import annotations

from opau_onnx.errors import OpauError


class DeployError(OpauError):
    """A deployment that cannot be written as asked, or that would not load."""
