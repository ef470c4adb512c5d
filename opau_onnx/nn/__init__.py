"""PyTorch activations: ``OrthogonalPade``, its named kinds, fits and the swapping of activations in a model."""

from opau_onnx.nn.fitting import Fit, fit
from opau_onnx.nn.modules import HP1, HP2, PAU, OrthogonalPade
from opau_onnx.nn.ops import orthogonal_pade
from opau_onnx.nn.replace import replace_activations

__all__ = ["HP1", "HP2", "PAU", "Fit", "OrthogonalPade", "fit", "orthogonal_pade", "replace_activations"]
