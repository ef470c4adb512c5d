"""The activation as a Keras 3 layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from opau_onnx.core import state
from opau_onnx.core.fitting import fit
from opau_onnx.core.spec import Config
from opau_onnx.core.targets import TARGETS
from opau_onnx.errors import SpecError

_CONFIGURATION = "configuration"
"""Its name beside the weights, which Keras numbers."""
BRIDGED: ContextVar[dict[int, Any] | None] = ContextVar("BRIDGED", default=None)
"""Layer's id -> the torch module that stands for it, while :mod:`opau_onnx.keras.bridge` runs a model."""


class OrthogonalPade(keras.layers.Layer):  # type: ignore[misc]
    """A learned rational activation, y = P(x) / Q(x) in an orthogonal polynomial basis (arXiv 2106.09693).

    The Keras counterpart of :class:`opau_onnx.nn.OrthogonalPade`: the same function, coefficients and gradients on any backend.

    Args:
        basis, degrees, form, groups: as in PyTorch.
        axis: the channel axis, used where ``groups`` > 1; -1 for Keras' usual channels last. The batch is axis 0.
        shared_numerator, shared_denominator: one row for all groups.
        init: what to fit the coefficients to: a name of :data:`opau_onnx.core.targets.TARGETS` or a callable, which is not
            saved; None for zeros, where coefficients are set later.
        interval: the interval of that fit.
        options: of keras.layers.Layer.

    Attributes:
        numerator: weight, (k + 1,) or (groups, k + 1).
        denominator: weight, (l,) or (groups, l); l + 1 columns in the forms "pau_c" and "free".
        config: the :class:`opau_onnx.core.spec.Config`.

    Weights are float32 at least, and what is computed is computed in their dtype, also under a policy of 16 bits. Gradients at
    infinite inputs are NaN; they are explicit, so forward-mode differentiation is not to be had on JAX.

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
        axis: int = -1,
        shared_numerator: bool = False,
        shared_denominator: bool = False,
        init: str | Callable[[Any], Any] | None = "leaky_relu",
        interval: tuple[float, float] = (-3.0, 3.0),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.config = Config(basis, form, degrees, groups, axis)
        if isinstance(init, str) and init not in TARGETS:
            raise SpecError(f"unknown target {init!r}; expected None, a callable or one of {', '.join(TARGETS)}")
        self.shared_numerator, self.shared_denominator = shared_numerator, shared_denominator
        self.init, self.interval = init, (float(interval[0]), float(interval[1]))
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make the weights; ``input_shape`` matters where there are groups."""
        self._check(input_shape)
        config = self.config
        found = None if self.init is None else fit(self.init, config, self.interval)
        sizes = (config.numerator_size, config.denominator_size)
        rows = ((0.0,) * sizes[0], (0.0,) * sizes[1]) if found is None else (found.numerator, found.denominator)
        self.numerator = self._weight("numerator", rows[0], self.shared_numerator)
        self.denominator = self._weight("denominator", rows[1], self.shared_denominator)
        self.built = True

    def _check(self, shape: Any) -> None:
        if self.config.groups == 1:
            return
        rank = len(shape)
        if -rank <= self.config.axis < rank and shape[self.config.axis] is None:
            raise SpecError(f"the input has shape {tuple(shape)}; {self.config} needs to know the size of that axis")
        self.config.check_input(tuple(n or 1 for n in shape))

    def _weight(self, name: str, row: tuple[float, ...], shared: bool) -> Any:
        groups = self.config.groups

        def initial(shape: Any, dtype: Any = None) -> Any:
            return ops.convert_to_tensor(np.broadcast_to(row, shape).copy(), dtype=dtype)

        shape = (len(row),) if groups == 1 or shared else (groups, len(row))
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        return self.add_weight(shape=shape, initializer=initial, name=name, dtype=dtype, autocast=False)

    def call(self, inputs: Any) -> Any:
        """Apply the activation elementwise."""
        bridged = (BRIDGED.get() or {}).get(id(self))
        if bridged is not None:
            return bridged(inputs)
        x, c, d = (ops.convert_to_tensor(v) for v in (inputs, self.numerator, self.denominator))
        if keras.backend.backend() == "torch":
            from opau_onnx.nn.ops import orthogonal_pade
        else:
            from opau_onnx.keras.evaluate import orthogonal_pade
        return orthogonal_pade(x, c, d, self.config)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the input."""
        return input_shape

    def save_own_variables(self, store: Any) -> None:
        """The coefficients, and the configuration that they belong to."""
        super().save_own_variables(store)
        store[_CONFIGURATION] = state.pack(self.config)

    def load_own_variables(self, store: Any) -> None:
        """The inverse; weights that say no configuration load with a warning.

        Raises:
            SpecError: the coefficients belong to another function.
        """
        names = list(store.keys())
        if _CONFIGURATION in names:
            state.check(self.config, np.asarray(store[_CONFIGURATION]))
        elif names:
            warnings.warn(
                f"{self.name}: the weights do not say which function they belong to; assumed is what the layer computes: "
                f"{self.config}",
                stacklevel=2,
            )
        super().load_own_variables({name: store[name] for name in names if name != _CONFIGURATION})

    def get_config(self) -> dict[str, Any]:
        """The arguments; a callable ``init`` becomes None, since the saved weights say more."""
        config = self.config
        own = {
            "basis": config.basis, "degrees": list(config.degrees), "form": config.form, "groups": config.groups,
            "axis": config.axis, "shared_numerator": self.shared_numerator, "shared_denominator": self.shared_denominator,
            "init": self.init if isinstance(self.init, str) else None, "interval": list(self.interval),
        }  # fmt: skip
        return {**super().get_config(), **own}


keras.saving.register_keras_serializable(package="opau_onnx")(OrthogonalPade)
