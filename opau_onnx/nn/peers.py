"""Activation modules of other libraries, in our terms; none of these libraries is imported.

A module is recognised by the name of its class (or of a base whose ``forward`` it keeps) and the names of its parameters. Where
the libraries' code leaves doubt there are several readings: :mod:`opau_onnx.nn.adopting` runs the module and takes the one
that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import PAU_FORMS, Config
from opau_onnx.errors import ReplacementError
from opau_onnx.nn.modules import OrthogonalPade


@dataclass(frozen=True)
class Reading:
    """One way to understand a module.

    Attributes:
        kind: library and version, for people.
        config: what the module computes.
        numerator, denominator: its coefficients, shapes as ``config`` allows; where they are trained they require a gradient.
        rank: the number of axes that its inputs have; 1 where it takes any.
    """

    kind: str
    config: Config
    numerator: Tensor
    denominator: Tensor
    rank: int = 1


@dataclass(frozen=True)
class Peer:
    """A library's class of modules.

    Attributes:
        classes: names of the class.
        keys: names of its parameters or buffers.
        homes: packages whose class this surely is; copies elsewhere are taken only if running them proves the reading.
        read: gives the readings, the most likely one first. Raises ReplacementError where the module cannot be represented.
    """

    classes: tuple[str, ...]
    keys: frozenset[str]
    homes: tuple[str, ...]
    read: Callable[[nn.Module], list[Reading]]


def find(module: nn.Module) -> tuple[Peer, bool] | None:
    """The peer that a module is of, and whether its class stands in the library itself; None for any other module."""
    if isinstance(module, OrthogonalPade):
        return None
    for kind in type(module).__mro__:
        for peer in PEERS:
            if kind.__name__ not in peer.classes or type(module).forward is not getattr(kind, "forward", None):
                continue
            if peer.keys <= {name for name, _ in (*module.named_parameters(), *module.named_buffers())}:
                return peer, any(f"{kind.__module__}.".startswith(f"{home}.") for home in peer.homes)
    return None


def _rational(module: nn.Module) -> list[Reading]:
    """rational-activations: versions A, B, C, D, N. Its ``approx_func`` and ``degrees`` only say how it started."""
    version = getattr(module, "version", None)
    if version not in PAU_FORMS:
        raise ReplacementError(f"is of version {version!r}; known are {', '.join(PAU_FORMS)}")
    if version == "D" and module.training:
        raise ReplacementError(
            "is of version D, which adds noise in training; call eval() first: without the noise it is version B, and stays so"
        )
    center = getattr(module, "center", None)
    if center is not None and torch.count_nonzero(torch.as_tensor(center)):
        raise ReplacementError(
            f"adds its center ({torch.as_tensor(center).tolist()}) to the input; add it to the bias of the layer before, and "
            "set it to 0"
        )
    return [_powers(module, f"rational-activations, version {version}", PAU_FORMS[version], "numerator", "denominator")]


def _recurrent(module: nn.Module) -> list[Reading]:
    """rational-activations: a wrapper around one Rational that stands at several places."""
    return _rational(module.get_submodule("rational"))


def _pade(module: nn.Module) -> list[Reading]:
    """ml-research/pau: version A in all its functions but one, which is not in its published code."""
    function = getattr(getattr(module, "activation_function", None), "__self__", None)
    if getattr(function, "__name__", "") == "PADEACTIVATION_F_cpp":
        raise ReplacementError("calls PADEACTIVATION_F_cpp, whose formula is not published; known are its _abs_ functions")
    return [_powers(module, "ml-research/pau", "abs_terms", "weight_numerator", "weight_denominator")]


def _pade_unit(module: nn.Module) -> list[Reading]:
    """Padé Activation Unit: Q is clamped from below, or an absolute value where it is not "efficient"."""
    eps, efficient = getattr(module, "eps", 1e-8), bool(getattr(module, "efficient", True))
    form = "clamped" if efficient else "abs_sum"
    limit = FORMS["clamped"].minimum
    if (efficient and eps != limit) or eps > 1:
        raise ReplacementError(f"has eps={eps:g}; the form {form!r} stands for eps={limit:g}: set module.eps to it and see")
    reading = _powers(module, f"Padé Activation Unit, efficient={efficient}", form, "weights_nominator", "weights_denominator")
    (k, l), m = reading.config.degrees, getattr(module, "m", None)
    if m is not None and m != k:
        raise ReplacementError(f"has m={m} and {k + 1} coefficients of the numerator; they do not belong together")
    used = min(k, l)  # its loop ends at m
    config = Config("power", form, (k, used))
    return [Reading(reading.kind, config, reading.numerator, reading.denominator[:used])]


def _kat(module: nn.Module) -> list[Reading]:
    """KAT: version A, a row for each group of channels; its path for the CPU leaves out the absolute values of the powers."""
    name = next(kind.__name__ for kind in type(module).__mro__ if kind.__name__ in _KAT)
    rank = _KAT[name]
    if rank is None:
        raise ReplacementError(
            "takes its channels from another axis for each rank of input; use KAT_Group (channels last) or KAT_Group2D"
        )
    c, d = (_tensor(module, key, 2) for key in ("weight_numerator", "weight_denominator"))
    groups = d.shape[0]
    if getattr(module, "num_groups", groups) != groups or c.shape[0] not in (1, groups):
        raise ReplacementError(
            f"has {tuple(c.shape)} coefficients of the numerator and {tuple(d.shape)} of the denominator for "
            f"num_groups={getattr(module, 'num_groups', groups)}"
        )
    c = c[0] if c.shape[0] == 1 else c
    d = d[0] if groups == 1 else d
    degrees, axis = (c.shape[-1] - 1, d.shape[-1]), -1 if rank == 3 else 1
    config, plain = (Config("power", form, degrees, groups, axis) for form in ("abs_terms", "plain"))
    return [
        Reading(f"kat_rational, {name}", config, c, d, rank),
        Reading(f"kat_rational, {name} on its path for the CPU, 1 + sum_j abs(d_j) x**j", plain, c, d.abs(), rank),
    ]


def _rational_nets(module: nn.Module) -> list[Reading]:
    """RationalNets: highest power first; its forward sets the first coefficient of the denominator to zero."""
    coeffs = _tensor(module, "coeffs", 2)
    if coeffs.shape != (4, 2):
        raise ReplacementError(f"has coeffs of shape {tuple(coeffs.shape)}; expected (4, 2)")
    config = Config("power", "free", (3, 2))
    return [Reading("RationalNets", config, coeffs[:, 0].flip(0), coeffs[1:, 1].flip(0))]


def _powers(module: nn.Module, kind: str, form: str, numerator: str, denominator: str) -> Reading:
    """One row of coefficients each, lowest power first; the degrees follow from their number."""
    c, d = (_tensor(module, key, None) for key in (numerator, denominator))
    degrees = (c.numel() - 1, d.numel() - 1 + FORMS[form].first)
    return Reading(kind, Config("power", form, degrees), c, d)


def _tensor(module: nn.Module, name: str, rank: int | None) -> Tensor:
    """A parameter or buffer; without ``rank`` as one row."""
    tensor: Tensor = getattr(module, name)
    if rank is None and tensor.numel() == max(tensor.shape, default=0):
        return tensor.reshape(-1)
    if tensor.dim() != rank:
        raise ReplacementError(f"has {name} of shape {tuple(tensor.shape)}; expected {'one row' if rank is None else 'rows'}")
    return tensor


_KAT = {"KAT_Group": 3, "KAT_1DGroup": 3, "KAT_Group_Torch": 3, "KAT_Group2D": 4, "KAT_1DGroupv2": None}
"""Class -> the rank of its inputs."""

PEERS = (
    Peer(("Rational", "PAU"), frozenset({"numerator", "denominator"}), ("rational.torch", "pau_torch"), _rational),
    Peer(
        ("RecurrentRationalModule",), frozenset({"rational.numerator", "rational.denominator"}), ("rational.torch",), _recurrent
    ),
    Peer(
        ("PAU", "PADEACTIVATION", "PADEACTIVATION_Function_based"),
        frozenset({"weight_numerator", "weight_denominator"}),
        ("pau.cuda.python_imp",),
        _pade,
    ),
    Peer(("PAU",), frozenset({"weights_nominator", "weights_denominator"}), ("pau",), _pade_unit),
    Peer(tuple(_KAT), frozenset({"weight_numerator", "weight_denominator"}), ("kat_rational",), _kat),
    Peer(("Rational",), frozenset({"coeffs"}), (), _rational_nets),
)
"""The libraries of other people's rational activations."""
