"""PyTorch activations: ``OrthogonalPade``, its named kinds, fits; swapping a model's activations, adopting other libraries'."""

from opau_onnx.core.fitting import Fit, fit
from opau_onnx.nn import functional as functional
from opau_onnx.nn.adopting import Adopted, Adoption, adopt
from opau_onnx.nn.balancing import balance, coefficient_parameters
from opau_onnx.nn.calls import Calls, CallSite, replace_calls
from opau_onnx.nn.freezing import FrozenActivation, freeze
from opau_onnx.nn.kernels import Implementation, implementation
from opau_onnx.nn.modules import HP1, HP2, PAU, OrthogonalPade
from opau_onnx.nn.ops import orthogonal_pade
from opau_onnx.nn.replace import replace_activations

__all__ = [
    "HP1",
    "HP2",
    "PAU",
    "Adopted",
    "Adoption",
    "CallSite",
    "Calls",
    "Fit",
    "FrozenActivation",
    "Implementation",
    "OrthogonalPade",
    "adopt",
    "balance",
    "coefficient_parameters",
    "fit",
    "freeze",
    "implementation",
    "orthogonal_pade",
    "replace_activations",
    "replace_calls",
]
