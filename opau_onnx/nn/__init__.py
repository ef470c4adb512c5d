"""PyTorch activations: ``OrthogonalPade``, its named kinds, fits; swapping a model's activations, adopting other libraries'."""

from opau_onnx.core.fitting import Fit, fit
from opau_onnx.nn.adopting import Adopted, Adoption, adopt
from opau_onnx.nn.modules import HP1, HP2, PAU, OrthogonalPade
from opau_onnx.nn.ops import orthogonal_pade
from opau_onnx.nn.replace import replace_activations

__all__ = [
    "HP1",
    "HP2",
    "PAU",
    "Adopted",
    "Adoption",
    "Fit",
    "OrthogonalPade",
    "adopt",
    "fit",
    "orthogonal_pade",
    "replace_activations",
]
