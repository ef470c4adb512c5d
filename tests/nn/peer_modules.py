"""Stand-ins for other libraries' modules: the names of classes, packages, parameters and attributes, and the formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.nn.test_peers import clamped_pau, kat_group, rational_a, rational_b, rational_c, rational_n

RATIONAL = {"A": rational_a, "B": rational_b, "C": rational_c, "D": rational_b, "N": rational_n}


def draw(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.5)


class Rational(nn.Module):
    """rational-activations."""

    __module__ = "rational.torch.rationals"

    def __init__(self, version: Any = "A", degrees: tuple[int, int] = (5, 4), formula: str | None = None) -> None:
        super().__init__()
        self.version, self.degrees, self.formula = version, degrees, formula or version
        self.numerator = draw(degrees[0] + 1)
        self.denominator = draw(degrees[1] + (version == "C"), seed=1)

    def forward(self, x: Tensor) -> Tensor:
        return RATIONAL[self.formula](x, self.numerator, self.denominator)


class PADEACTIVATION_F_python:
    @staticmethod
    def apply(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        return rational_a(x, numerator, denominator)


class PADEACTIVATION_F_cpp:
    @classmethod
    def apply(cls, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        raise NameError("pau_forward_cuda")


class PADEACTIVATION_Function_based(nn.Module):
    """ml-research/pau: what its function PAU() returns."""

    __module__ = "pau.cuda.python_imp.Pade"

    def __init__(self, act_func_cls: Any = PADEACTIVATION_F_python) -> None:
        super().__init__()
        self.weight_numerator, self.weight_denominator = draw(6), draw(4, seed=1)
        self.activation_function = act_func_cls.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.activation_function(x, self.weight_numerator, self.weight_denominator)


class PAU(nn.Module):
    """Padé Activation Unit."""

    __module__ = "pau.pau"

    def __init__(self, m: int = 5, n: int = 4, efficient: bool = True, eps: float = 1e-8) -> None:
        super().__init__()
        self.m, self.n, self.efficient, self.eps = m, n, efficient, eps
        self.weights_nominator, self.weights_denominator = draw(1, m + 1), draw(1, n, seed=1)

    def freeze(self) -> PAU:
        for name in ("weights_nominator", "weights_denominator"):
            value = getattr(self, name).data.clone()
            delattr(self, name)
            self.register_buffer(name, value)
        return self

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.weights_nominator[0], self.weights_denominator[0, : self.m]
        return clamped_pau(x, a, b) if self.efficient else rational_b(x, a, b)


class KAT_Group(nn.Module):
    """kat_rational, channels last.

    Args:
        path: "kernel" computes what the library's CUDA kernels do, "cuda" refuses to run here as they do, "cpu" does what the
            library's own path for the CPU does.
    """

    __module__ = "kat_rational.kat_1dgroup_triton"
    rank = 3

    def __init__(self, num_groups: int = 8, path: str = "kernel", numerators: int = 1) -> None:
        super().__init__()
        self.num_groups, self.path = num_groups, path
        self.weight_numerator, self.weight_denominator = draw(numerators, 6), draw(num_groups, 4, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == self.rank
        if self.path == "cuda":
            raise RuntimeError("0 active drivers")
        if self.path == "cpu":
            wide = x.reshape(*x.shape[:-1], self.num_groups, -1)
            rows = self.weight_denominator.abs()
            out = [rational_n(wide[..., g, :], self.weight_numerator[0], rows[g]) for g in range(self.num_groups)]
            return torch.stack(out, -2).reshape(x.shape)
        if len(self.weight_numerator) > 1:
            wide = x.reshape(*x.shape[:-1], self.num_groups, -1)
            each = zip(self.weight_numerator, self.weight_denominator, strict=True)
            return torch.stack([rational_a(wide[..., g, :], *pair) for g, pair in enumerate(each)], -2).reshape(x.shape)
        return kat_group(x, self.weight_numerator, self.weight_denominator)


class KAT_1DGroup(KAT_Group):
    """Its numerator too has a row for each group."""

    __module__ = "kat_rational.kat_1dgroup"

    def __init__(self, num_groups: int = 4) -> None:
        super().__init__(num_groups, numerators=num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class KAT_Group2D(KAT_Group):
    """Channels on axis 1 of four."""

    __module__ = "kat_rational.kat_2dgroup_triton"
    rank = 4

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class KAT_1DGroupv2(KAT_Group):
    __module__ = "kat_rational.kat_1dgroup"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Coeffs(nn.Module):
    """RationalNets; its class, named Rational, stands in a file of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.coeffs = nn.Parameter(torch.tensor([[1.1915, 0.7], [1.5957, 2.383], [0.5, 0.1], [0.0218, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        self.coeffs.data[0, 1] = 0.0
        powers = x.unsqueeze(-1) ** torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=x.dtype)
        top, bottom = (powers @ self.coeffs).unbind(-1)
        return top / bottom


Coeffs.__name__ = "Rational"
