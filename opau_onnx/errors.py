"""Typed errors. Each message says what was asked, what was found, what was expected and how to mend it."""

from __future__ import annotations


class OpauError(Exception):
    """Base of every error that this package raises on purpose."""


class SpecError(OpauError, ValueError):
    """A configuration of the activation that the definition does not allow."""


class LoadError(OpauError):
    """A model or data file that cannot be read or does not fit, or that is refused because reading it could run code."""


class ExportError(OpauError):
    """A model that cannot be turned into an ONNX file as asked."""


class CollapseError(OpauError):
    """A model whose activations cannot be collapsed as asked."""


class ValidationError(OpauError):
    """A comparison that cannot be carried out (not: a comparison that found a difference)."""


class NotComparableError(ValidationError):
    """A comparison that would show nothing: the model gives other results each time, or its tolerance would allow anything."""


class ReplacementError(OpauError, ValueError):
    """A request to swap activations that matches nothing in the model."""


class LibraryError(OpauError):
    """The compiled op library is missing, was not built, or cannot be loaded."""


class DeviceError(OpauError):
    """A device that was asked for and cannot run the model here."""


class DeployError(OpauError):
    """A deployment that cannot be written as asked, or that would not load."""


class BenchError(OpauError):
    """A measurement that cannot be made as asked."""
