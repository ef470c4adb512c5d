"""``adopt``: activations that other libraries trained become :class:`opau_onnx.nn.OrthogonalPade`, the same function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from opau_onnx.core.spec import Config
from opau_onnx.errors import ReplacementError, SpecError
from opau_onnx.nn import peers
from opau_onnx.nn.copying import copy_module
from opau_onnx.nn.modules import OrthogonalPade
from opau_onnx.nn.peers import Peer, Reading
from opau_onnx.nn.probing import Found, probe
from opau_onnx.nn.replace import put


@dataclass(frozen=True)
class Adopted:
    """One module that was replaced.

    Attributes:
        name: its qualified name; "" where the model itself is one.
        kind: library and version.
        config: what it computes.
        compared: on how many inputs the library's own code gave the same values; 0 where it cannot run here.
        max_error: the largest difference on these; 0.0 where nothing ran.
        not_run: why nothing ran; "" where it did.
    """

    name: str
    kind: str
    config: Config
    compared: int
    max_error: float
    not_run: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        c = self.config
        return {
            "module": self.name, "kind": self.kind, "basis": c.basis, "form": c.form, "degrees": list(c.degrees),
            "groups": c.groups, "axis": c.axis, "compared": self.compared, "max_error": self.max_error, "not_run": self.not_run,
        }  # fmt: skip

    def __str__(self) -> str:
        ran = f"equal to its own code on {self.compared:,} inputs"
        same = ran if self.compared else f"its own code could not run here ({self.not_run})"
        return f"{self.name or 'the model'} ({self.kind}): {self.config}; {same}"


class Adoption(NamedTuple):
    """Result of :func:`adopt`.

    Attributes:
        model: the model; a new module where the model itself was an activation.
        modules: one record for each place that was replaced.
        left: modules that look like a known library's, from elsewhere, and compute something else: a line for each.
    """

    model: nn.Module
    modules: tuple[Adopted, ...]
    left: tuple[str, ...] = ()


def adopt(model: nn.Module) -> Adoption:
    """Replace, in place, the activation modules of other libraries by :class:`OrthogonalPade` modules of the same function.

    Known are rational-activations (versions A, B, C, D, N), PAU (ml-research/pau), Padé Activation Unit (ChristophReich1996),
    KAT groups (kat_rational) and RationalNets; none of them needs to be installed. Every module that can run here is run and
    compared with what it is taken for. Coefficients keep their device, and whether they are trained; 16-bit ones become
    float32. What shared its coefficients goes on sharing them.

    Returns:
        The model, and what was replaced.

    Raises:
        ReplacementError: there is no such module, or one cannot be represented. The model is as it was then.
    """
    places, left = _places(model)
    if not places:
        classes = sorted({type(m).__name__ for m in model.modules()})
        raise ReplacementError(
            f"no activation of another library that is known here; the model holds {', '.join(classes)}. "
            + "".join(f"{line}. " for line in left)
            + "opau_onnx.nn.replace_activations swaps any other module"
        )
    return _replace(model, places, left)


def adopted_copy(model: nn.Module) -> Adoption:
    """:func:`adopt` of a copy; the model itself where it holds no such module."""
    places, left = _places(model)
    if not places:
        return Adoption(model, (), left)
    clone = copy_module(model)
    return _replace(clone, [replace(p, module=clone.get_submodule(p.name)) for p in places], left)


@dataclass(frozen=True)
class _Place:
    """A module of a peer; ``sure`` where its class stands in the library itself."""

    name: str
    module: nn.Module
    peer: Peer
    sure: bool

    def __str__(self) -> str:
        return f"{self.name or 'the model'} ({type(self.module).__module__}.{type(self.module).__qualname__})"

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where modules compute the same function from the same tensors."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return type(self.module), getattr(self.module, "version", None), *(id(t) for t in tensors)


def _places(model: nn.Module) -> tuple[list[_Place], tuple[str, ...]]:
    """Every place of a peer's module that is not inside another one, and lines about those that only look so."""
    found: list[_Place] = []
    left: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        known = peers.find(module)
        if known is None or any(name.startswith(f"{p.name}." if p.name else "") for p in found):
            continue
        place = _Place(name, module, *known)
        doubt = "" if place.sure else _doubt(place)
        if doubt:
            left.append(f"{place} was left as it is: it {doubt}")
        else:
            found.append(place)
    return found, tuple(left)


def _doubt(place: _Place) -> str:
    """Why a class from elsewhere, of a peer's name and parameters, is not taken for the peer's; "" where it is."""
    try:
        _, found = _read(place)
    except ReplacementError as error:
        return str(error)
    return "" if found.points else f"could not be run to make sure ({found.reason})"


def _replace(model: nn.Module, places: Sequence[_Place], left: tuple[str, ...]) -> Adoption:
    made: dict[Any, tuple[OrthogonalPade, Adopted]] = {}
    new = [(place.name, *_made(place, made)) for place in places]
    for name, module, _ in new:
        model = put(model, name, module)
    return Adoption(model, tuple(record for _, _, record in new), left)


def _made(place: _Place, made: dict[Any, tuple[OrthogonalPade, Adopted]]) -> tuple[OrthogonalPade, Adopted]:
    """The module in place of a peer's and its record; the same module for all that share their coefficients."""
    if place.key not in made:
        try:
            reading, found = _read(place)
        except ReplacementError as error:
            raise ReplacementError(f"{place} cannot become an OrthogonalPade: it {error}") from None
        record = Adopted(place.name, reading.kind, reading.config, found.points, found.error, found.reason)
        made[place.key] = _module(reading).train(place.module.training), record
    module, record = made[place.key]
    return module, replace(record, name=place.name)


def _module(reading: Reading) -> OrthogonalPade:
    module = OrthogonalPade.from_coefficients(reading.numerator, reading.denominator, reading.config)
    module._start = f"trained with {reading.kind}"
    module.numerator.requires_grad_(reading.numerator.requires_grad)
    module.denominator.requires_grad_(reading.denominator.requires_grad)
    return module.to_float32_at_least()


def _read(place: _Place) -> tuple[Reading, Found]:
    """The function of a module, and how running it compared with that.

    Raises:
        ReplacementError: it cannot be represented, or it computes something else.
    """
    try:
        with torch.enable_grad():  # whether coefficients are trained shows in what is made of them
            readings = place.peer.read(place.module)
    except SpecError as error:
        raise ReplacementError(f"is beyond the definition: {error}") from None
    if not all(bool(torch.isfinite(v).all()) for v in (readings[0].numerator, readings[0].denominator)):
        raise ReplacementError("has coefficients that are NaN or infinite; its training diverged")
    tried = [(reading, probe(place.module, reading)) for reading in readings]
    reading, found = next((pair for pair in tried if pair[1].equal), tried[0])
    if found.points and not found.equal:
        raise ReplacementError(
            f"does not compute what {reading.kind} does ({reading.config}): at x = {found.x:.6g} it gives {found.theirs:.6g}, "
            f"expected {found.expected:.6g}"
        )
    return reading, found
