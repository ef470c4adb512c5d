"""Runs of neighbours that share a row of coefficients, of every length around the vectors': each has its own row's bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx import native
from opau_onnx.core.spec import Config
from opau_onnx.native import training
from tests.cases import case
from tests.custom_ops.library import required_library

NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LENGTHS = (*range(1, 70), 95, 96, 97, 127, 128, 129, 255, 256, 257)
GROUPS, OUTER = 3, 4
KINDS = (("hermite_e", (5, 4)), ("hermite_e", (3, 2)), ("power", (5, 4)), ("legendre", (4, 4)), ("laguerre", (5, 4)))


def drawn(length: int, dtype: str) -> Any:
    """Inputs (OUTER, GROUPS, length), some far out, NaN and infinities among them."""
    rng = np.random.default_rng(length)
    x = rng.standard_normal((OUTER, GROUPS, length)) * 10.0 ** rng.integers(-2, 5, (OUTER, GROUPS, length))
    x.reshape(-1)[:: 2 * length + 1] = 3e5 if dtype != "float16" else 6e4
    x.reshape(-1)[-3:] = [np.nan, np.inf, -np.inf]
    return x.astype(NUMPY[dtype])


def rows(basis: str, degrees: tuple[int, int]) -> tuple[Any, Any]:
    c = case(basis, "abs_terms", degrees)
    scales = np.random.default_rng(9).uniform(0.5, 2.0, (2, GROUPS, 1))
    return scales[0] * c.numerator, scales[1] * c.denominator


@pytest.fixture(params=["scalar", "scalar_fma", "avx2", "avx512", "neon"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if found not in native.instruction_sets(required_library()):
        pytest.skip(f"{found} is not compiled in, or this machine cannot run it")
    return found


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize(("basis", "degrees"), KINDS)
def test_every_length_has_the_bits_of_its_rows(basis: str, degrees: tuple[int, int], dtype: str, name: str) -> None:
    """Whole tensors and parts of them, in place too; nothing else is written."""
    library, (c, d) = required_library(), rows(basis, degrees)
    single = [native.Activation(Config(basis, degrees=degrees), c[g], d[g], dtype, instruction_set=name, library=library)
              for g in range(GROUPS)]  # fmt: skip
    for length in LENGTHS:
        x = drawn(length, dtype)
        wanted = np.stack([single[g](np.ascontiguousarray(x[:, g])) for g in range(GROUPS)], axis=1)
        grouped = native.Activation(Config(basis, degrees=degrees, groups=GROUPS, axis=1), c, d, dtype,
                                    instruction_set=name, library=library)  # fmt: skip
        assert grouped(x).tobytes() == wanted.tobytes(), length
        begin, end = length // 2, x.size - length // 3 - 1
        for y in (np.full_like(x, 7), x.copy()):
            left = y.copy()
            source = x if (y == 7).all() else y
            grouped.run(source.ctypes.data, y.ctypes.data, (OUTER, GROUPS, length), (begin, end))
            assert y.reshape(-1)[begin:end].tobytes() == wanted.reshape(-1)[begin:end].tobytes(), length
            for beside in (slice(None, begin), slice(end, None)):
                assert y.reshape(-1)[beside].tobytes() == left.reshape(-1)[beside].tobytes(), length


def test_training_has_the_same_bits() -> None:
    """Its activations serve once, and take other ways through short runs."""
    library, (c, d) = required_library(), rows("hermite_e", (5, 4))
    config = Config(groups=GROUPS, axis=1)
    given, function = native.Given(config, c, d, "float32", None), training.Function(config, library=library)
    for length in LENGTHS:
        x = drawn(length, "float32")
        y = np.empty_like(x)
        function.forward(1, *given.arguments[6:10], x.ctypes.data, y.ctypes.data, (OUTER, GROUPS, length))
        assert y.tobytes() == native.Activation(config, c, d, library=library)(x).tobytes(), length
