"""The activations as ``torch.nn`` modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from opau_onnx.core.fitting import Fit, fit
from opau_onnx.core.spec import PAU_FORMS, Config
from opau_onnx.errors import SpecError
from opau_onnx.nn.ops import orthogonal_pade


class OrthogonalPade(nn.Module):
    """A learned rational activation, y = P(x) / Q(x) in an orthogonal polynomial basis (arXiv 2106.09693).

    Args:
        basis: one of :data:`opau_onnx.core.spec.BASES`.
        degrees: (k, l), degrees of numerator and denominator, each 0 to 16.
        form: denominator, one of :data:`opau_onnx.core.denominators.FORMS`; "abs_terms" and "abs_sum" have no poles.
        groups: 1 for coefficients shared by the layer, G for G groups of neighbouring channels, the number of channels for
            coefficients of each channel's own.
        axis: the channel axis, used where ``groups`` > 1.
        shared_numerator: one numerator for all groups, as KAT has it.
        init: what to fit the coefficients to: a name of :data:`opau_onnx.core.targets.TARGETS` or a callable.
        interval: the interval of that fit (see :func:`opau_onnx.nn.fit`).
        device, dtype: of the parameters; they should be float32, or float64 in a float64 model.

    Shape:
        input and output: any shape, the same; where ``groups`` > 1 that number must divide the channels.

    Attributes:
        numerator: parameter, (k + 1,) or (groups, k + 1).
        denominator: parameter, (l,) or (groups, l); l + 1 columns in the forms "pau_c" and "free".
        config: the :class:`opau_onnx.core.spec.Config`.
        fit: what they started from; None for given coefficients.
        target: name of what that was fitted to; "" for given coefficients.

    The output has the input's dtype. Computed in float32 at least, so also under autocast. The backward pass keeps the input
    and nothing else. Gradients at infinite inputs are NaN.

    Raises:
        SpecError: arguments outside these ranges.
    """

    def __init__(
        self,
        basis: str = "hermite_e",
        degrees: tuple[int, int] = (5, 4),
        form: str = "abs_terms",
        *,
        groups: int = 1,
        axis: int = 1,
        shared_numerator: bool = False,
        init: str | Callable[[Any], Any] = "leaky_relu",
        interval: tuple[float, float] = (-3.0, 3.0),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = Config(basis, form, degrees, groups, axis)
        found = fit(init, self.config, interval)
        name = init if isinstance(init, str) else getattr(init, "__name__", type(init).__name__)
        self.target = name
        self._start = f"{name} on [{interval[0]:g}, {interval[1]:g}], max error {found.max_error:.2g}"
        options = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self.numerator = nn.Parameter(self._rows(found.numerator, shared_numerator, options))
        self.denominator = nn.Parameter(self._rows(found.denominator, False, options))
        self.fit: Fit | None = found

    @classmethod
    def from_coefficients(
        cls,
        numerator: Tensor | Sequence[float],
        denominator: Tensor | Sequence[float],
        config: Config,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> OrthogonalPade:
        """A module with the given coefficients, shapes as ``config`` allows, instead of a fit.

        Raises:
            SpecError: shapes that do not fit.
        """
        dtype = dtype or (numerator.dtype if isinstance(numerator, Tensor) else torch.get_default_dtype())
        c, d = (torch.as_tensor(v, device=device, dtype=dtype).detach().clone() for v in (numerator, denominator))
        config.check_coefficients(tuple(c.shape), tuple(d.shape))
        module = OrthogonalPade.__new__(OrthogonalPade)
        nn.Module.__init__(module)
        module.config, module._start, module.fit, module.target = config, "given coefficients", None, ""
        module.numerator, module.denominator = nn.Parameter(c), nn.Parameter(d)
        return module

    def _rows(self, values: Sequence[float], shared: bool, options: dict[str, Any]) -> Tensor:
        row = torch.tensor(values, **options)
        return row if self.config.groups == 1 or shared else row.repeat(self.config.groups, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation elementwise."""
        return orthogonal_pade(input, self.numerator, self.denominator, self.config)

    def extra_repr(self) -> str:
        """The module's function and its start."""
        return f"{self.config}, init: {self._start}"

    def to_float32_at_least(self) -> Self:
        """Bring 16-bit coefficients to float32, as ONNX files of this package hold them."""
        for parameter in (self.numerator, self.denominator):
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
        return self


class HP1(OrthogonalPade):
    """HP-1: safe OPAU in the probabilists' Hermite basis, degrees (5, 4) unless told otherwise.

    Which of the paper's two Hermite activations is -1 is this project's reading. Keyword arguments as
    :class:`OrthogonalPade`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(basis="hermite_e", form="abs_terms", **options)


class HP2(OrthogonalPade):
    """HP-2: safe OPAU in the physicists' Hermite basis, degrees (5, 4) unless told otherwise; see :class:`HP1`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(basis="hermite", form="abs_terms", **options)


class PAU(OrthogonalPade):
    """Padé activation unit in the power basis (arXiv 1907.06732), versions of the package ``rational-activations``.

    Args:
        version: "A" (each term in absolute value), "B" (absolute value of the sum), "C" (0.1 plus the absolute value of a sum
            that starts at j = 0), "D" (B; the noise that version D adds in training is not applied), "N" (plain).
        options: as :class:`OrthogonalPade`.
    """

    def __init__(self, version: str = "A", **options: Any) -> None:
        if version not in PAU_FORMS:
            raise SpecError(f"unknown PAU version {version!r}; expected one of {', '.join(PAU_FORMS)}")
        super().__init__(basis="power", form=PAU_FORMS[version], **options)
        self.version = version
