"""The activations as ``torch.nn`` modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch import Tensor, nn

from opau_onnx.core import state
from opau_onnx.core.fitting import Fit, check, fit
from opau_onnx.core.spec import PAU_FORMS, Config
from opau_onnx.errors import SpecError
from opau_onnx.nn import loading
from opau_onnx.nn.loading import like
from opau_onnx.nn.ops import orthogonal_pade

_UNFITTED: ContextVar[bool] = ContextVar("_UNFITTED", default=False)


@contextmanager
def unfitted() -> Iterator[None]:
    """Within it activations are made for a state_dict: of zeros, and fitted when somebody asks what they started from.

    A fit takes half a second, and the coefficients are overwritten.
    """
    before = _UNFITTED.set(True)
    try:
        yield
    finally:
        _UNFITTED.reset(before)


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
        inplace: without effect, since the backward pass needs the input; factories pass it to every activation.
        device, dtype: of the parameters; they should be float32, or float64 in a float64 model.

    Shape:
        input and output: any shape, the same; where ``groups`` > 1 that number must divide the channels.

    Attributes:
        numerator: parameter, (k + 1,) or (groups, k + 1).
        denominator: parameter, (l,) or (groups, l); l + 1 columns in the forms "pau_c" and "free"; a buffer where it is empty.
        config: the :class:`opau_onnx.core.spec.Config`.
        fit: what they started from; None for given coefficients.
        target: name of what that was fitted to; "" for given coefficients.

    The output has the input's dtype. Computed in float32 at least, so also under autocast. The backward pass keeps the input
    and nothing else. Gradients at infinite inputs are NaN.

    Raises:
        SpecError: arguments outside these ranges.
    """

    numerator: Tensor
    denominator: Tensor

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
        inplace: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = Config(basis, form, degrees, groups, axis)
        self.target = init if isinstance(init, str) else getattr(init, "__name__", type(init).__name__)
        self._interval = check(init, interval)
        self._late = _UNFITTED.get() and isinstance(init, str)
        if self._late:
            numerator, denominator = ([0.0] * n for n in (self.config.numerator_size, self.config.denominator_size))
        else:
            numerator, denominator = self._settle(fit(init, self.config, interval))
        options = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self._hold("numerator", self._rows(numerator, shared_numerator, options))
        self._hold("denominator", self._rows(denominator, False, options))

    def _settle(self, found: Fit) -> tuple[list[Any], list[Any]]:
        low, high = self._interval
        self._start = f"{self.target} on [{low:g}, {high:g}], {_said(found)}"
        self._fit: Fit | None = found
        self._late = False
        values = list(found.numerator), list(found.denominator)
        self._initial: tuple[list[Any], list[Any]] | None = values
        return values

    def _fit_now(self) -> None:
        """Fit what :func:`unfitted` put off."""
        if self._late:
            self._settle(fit(self.target, self.config, self._interval))

    @property
    def fit(self) -> Fit | None:
        """See the class."""
        self._fit_now()
        return self._fit

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
        module.config, module._start, module._fit, module.target, module._late = config, "given coefficients", None, "", False
        module._hold("numerator", c)
        module._hold("denominator", d)
        module._initial = None if c.is_meta or d.is_meta else (c.tolist(), d.tolist())
        return module

    def _hold(self, name: str, values: Tensor) -> None:
        """As a parameter; a denominator without coefficients as a buffer, since FSDP cannot shard empty parameters."""
        if values.numel():
            self.register_parameter(name, nn.Parameter(values))
        else:
            self.register_buffer(name, values)

    def _rows(self, values: Sequence[float], shared: bool, options: dict[str, Any]) -> Tensor:
        row = torch.tensor(values, **options)
        return row if self.config.groups == 1 or shared else row.repeat(self.config.groups, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation elementwise."""
        return orthogonal_pade(input, self.numerator, self.denominator, self.config)

    def reset_parameters(self) -> None:
        """Set the coefficients, in place, to what they started from: the fit, or the given ones.

        After ``to_empty`` they hold whatever was in memory; this is what PyTorch's own modules offer for it. Sharded parameters
        (DTensor) stay sharded.

        Raises:
            SpecError: the coefficients were given on the meta device, so that there are no numbers to go back to, or they are
                computed (parametrized).
        """
        if nn.utils.parametrize.is_parametrized(self):
            raise SpecError("the coefficients are parametrized: set the parameters that they are computed from")
        self._fit_now()
        if self._initial is None:
            raise SpecError("the coefficients were given without values, on the meta device; load them from a state_dict")
        with torch.no_grad():
            for parameter, values in zip((self.numerator, self.denominator), self._initial, strict=True):
                parameter.copy_(like(parameter, torch.tensor(values, dtype=torch.float64).expand(parameter.shape)))

    def get_extra_state(self) -> Tensor:
        """The configuration for the state_dict, uint8 of shape (128,): coefficients alone do not say their basis."""
        return torch.from_numpy(state.pack(self.config))

    def set_extra_state(self, state: Any) -> None:
        """Check that a state's coefficients belong to this module's function.

        Raises:
            SpecError: they belong to another one.
        """
        loading.check(self.config, state)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: list[str], unexpected: list[str],
        errors: list[str],
    ) -> None:  # fmt: skip
        problem, keys = loading.before(self.config, state_dict, prefix)
        if problem:
            errors.append(problem)  # an error with strict=False too
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        missing[:] = [key for key in missing if key not in keys]

    def extra_repr(self) -> str:
        """The module's function and its start."""
        self._fit_now()
        return f"{self.config}, init: {self._start}"

    def to_float32_at_least(self) -> Self:
        """Bring 16-bit coefficients to float32, as ONNX files of this package hold them."""
        for parameter in (self.numerator, self.denominator):
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
        return self


def _said(found: Fit) -> str:
    """How close a fit is, and how it grows beyond its interval."""
    values = ", ".join(f"{v:.3g}" for v in found.far)
    return f"max error {found.max_error:.2g}, values at -100, -10, 10, 100: {values}"


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
