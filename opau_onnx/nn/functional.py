"""The activations as functions of their coefficients, as ``torch.nn.functional`` has its own; degrees follow from shapes."""

from __future__ import annotations

from torch import Tensor

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import PAU_FORMS, Config
from opau_onnx.errors import SpecError
from opau_onnx.nn import ops

__all__ = ["hp1", "hp2", "orthogonal_pade", "pau"]


def orthogonal_pade(
    input: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    basis: str = "hermite_e",
    form: str = "abs_terms",
    *,
    groups: int = 1,
    axis: int = 1,
) -> Tensor:
    """y = P(x) / Q(x), elementwise, as :class:`opau_onnx.nn.OrthogonalPade` computes it.

    Args:
        input: any shape; float16, bfloat16, float32 or float64.
        numerator: c_0 .. c_k, shape (k + 1,) or (groups, k + 1).
        denominator: d_1 .. d_l, shape (l,) or (groups, l); d_0 .. d_l in the forms "pau_c" and "free".
        basis, form, groups, axis: as in :class:`opau_onnx.nn.OrthogonalPade`.

    Returns:
        A tensor of input's shape and dtype.

    Raises:
        SpecError: unknown names, shapes that do not fit, or an input that is not of a floating type.
    """
    first = FORMS[form].first if form in FORMS else 0  # Config says which there are
    if numerator.dim() == 0 or denominator.dim() == 0:
        raise SpecError("numerator and denominator are single numbers; expected shapes (n,) or (groups, n)")
    degrees = numerator.shape[-1] - 1, denominator.shape[-1] - 1 + first
    return ops.orthogonal_pade(input, numerator, denominator, Config(basis, form, degrees, groups, axis))


def hp1(input: Tensor, numerator: Tensor, denominator: Tensor, *, groups: int = 1, axis: int = 1) -> Tensor:
    """:class:`opau_onnx.nn.HP1` of given coefficients; arguments as :func:`orthogonal_pade`."""
    return orthogonal_pade(input, numerator, denominator, "hermite_e", groups=groups, axis=axis)


def hp2(input: Tensor, numerator: Tensor, denominator: Tensor, *, groups: int = 1, axis: int = 1) -> Tensor:
    """:class:`opau_onnx.nn.HP2` of given coefficients; arguments as :func:`orthogonal_pade`."""
    return orthogonal_pade(input, numerator, denominator, "hermite", groups=groups, axis=axis)


def pau(input: Tensor, numerator: Tensor, denominator: Tensor, version: str = "A", *, groups: int = 1, axis: int = 1) -> Tensor:
    """:class:`opau_onnx.nn.PAU` of given coefficients and of a version "A", "B", "C", "D" or "N"."""
    if version not in PAU_FORMS:
        raise SpecError(f"unknown PAU version {version!r}; expected one of {', '.join(PAU_FORMS)}")
    return orthogonal_pade(input, numerator, denominator, "power", PAU_FORMS[version], groups=groups, axis=axis)
