"""Options that several commands share, each with one meaning and one grammar."""

# No heavy imports and no `from __future__ import annotations` here: see opau_onnx/cli/export.py.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.cli.common import console, fail, sizes

Shape = tuple[int, ...]
READING, VALIDATION = "Reading the model", "Validation"


def option(help_text: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """An option with its help text and panel; ``more`` as typer.Option takes it."""
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from opau_onnx._version import __version__

        typer.echo(f"opau-{context.command.name} {__version__}")
        raise typer.Exit


Version = Annotated[bool, option("Show the version and exit.", None, "--version", is_eager=True, callback=_show_version)]
Verbose = Annotated[bool, option("Show the steps, and all that was found.", None, "--verbose", "-v")]
Report = Annotated[Path | None, option("Write the report as JSON.", metavar="FILE.json", show_default=False)]
Factory = Annotated[
    str | None,
    option("package.module:factory of the model that a state_dict fits.", READING, "--model"),
]
AllowPickle = Annotated[bool, option("Trust MODEL and run the code in it.", READING, "--allow-pickle")]
Key = Annotated[
    str | None,
    option(
        "One of several state_dicts in the file; default: the first that fits (printed as a note).",
        READING,
        metavar="NAME[.NAME]",
        show_default=False,
    ),
]
StripPrefix = Annotated[
    str | None,
    option(
        'Take the weights whose names begin so, without it, e.g. "student."; default: a prefix that makes them fit.',
        READING,
        metavar="PREFIX",
        show_default=False,
    ),
]
InputShape = Annotated[
    list[str] | None,
    option(
        "Shape of an input whose sizes the model leaves open, e.g. 1,3,224,224 or images:1,3,224,224 or ids:int64:1,128; "
        "once for each, all with names or all in order.",
        metavar="[NAME:][DTYPE:]SIZES",
        show_default=False,
    ),
]


Inputs = Annotated[
    Path | None,
    option(
        "Example inputs for a state_dict: arrays by the names of the model's arguments, or arr_0, arr_1, .. in order.",
        READING,
        metavar="FILE.npz",
        show_default=False,
    ),
]
Atol = Annotated[float | None, option("Absolute tolerance instead of the measured one.", VALIDATION, min=0.0)]
Rtol = Annotated[float | None, option("Relative tolerance instead of the measured one.", VALIDATION, min=0.0)]
RandomRows = Annotated[int, option("Rows of the largest random batch.", VALIDATION, "--samples", min=1)]
Seed = Annotated[int, option("Seed of the random inputs.", VALIDATION)]
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Of inputs, as --input-shape names them."""


class TypedShape(tuple[int, ...]):
    """A shape with the name of a dtype."""

    dtype: str = "float32"


@dataclass(frozen=True)
class Reading:
    """Arguments of :func:`opau_onnx.load` for a PyTorch file."""

    factory: str | None = None
    input_shapes: Mapping[str, Shape] | Sequence[Shape] | None = None
    allow_pickle: bool = False
    key: str | None = None
    strip_prefix: str | None = None
    inputs: Path | None = None

    def load(self, model: Path) -> Any:
        """The :class:`opau_onnx.io.source.Source`, read without torch's own warnings; raises LoadError."""
        from opau_onnx.io.quiet import quiet
        from opau_onnx.io.source import load

        with quiet():
            source = load(
                model, factory=self.factory, input_shapes=self.input_shapes, allow_pickle=self.allow_pickle, key=self.key,
                strip_prefix=self.strip_prefix, inputs=self.inputs,
            )  # fmt: skip
        for note in source.notes:
            console(stderr=True).print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
        return source


def input_shapes(texts: Sequence[str] | None) -> Mapping[str, Shape] | tuple[Shape, ...] | None:
    """The values of --input-shape: by name, or in order; None where there are none. Ends the command where they are wrong."""
    named: dict[str, Shape] = {}
    ordered: list[Shape] = []
    for text in texts or ():
        name, _, rest = text.rpartition(":")
        shape: Shape = sizes(rest)
        if not shape or (":" in text and not name):
            fail(
                f"--input-shape is {text!r}; expected [NAME:][DTYPE:]SIZES, whole numbers of at least 1 with commas, e.g. "
                "1,3,224,224 or images:1,3,224,224 or ids:int64:1,128"
            )
        before, _, last = name.rpartition(":")
        if last in DTYPES:
            name, shape = before, TypedShape(shape)
            shape.dtype = last
        if name:
            named[name] = shape
        else:
            ordered.append(shape)
    if named and ordered:
        fail("--input-shape is given with names and without; expected one way for all inputs")
    return named or tuple(ordered) or None


def shapes_of_file(texts: Sequence[str] | None, path: Path) -> dict[str, Shape]:
    """:func:`input_shapes` by the names of an ONNX file's inputs."""
    found = input_shapes(texts)
    if found is None or isinstance(found, Mapping):
        return dict(found or {})
    from opau_onnx.errors import OpauError
    from opau_onnx.graph.coverage import input_names

    try:
        names = input_names(path)
    except (OpauError, OSError) as error:
        fail(f"{path}: {error}")
    if len(found) > len(names):
        fail(f"--input-shape is given {len(found)} times; {path} has the inputs {', '.join(names)}")
    return dict(zip(names, found, strict=False))
