"""Options that the commands share."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

import opau_onnx
from opau_onnx.cli.options import input_shapes, shapes_of_file
from opau_onnx.cli.serve_options import ModelOptions, ServerOptions
from opau_onnx.errors import LoadError
from opau_onnx.io.source import load
from opau_onnx.nn import HP1
from opau_onnx.serve.config import ModelSettings, ServerSettings

COMMANDS = ("export", "collapse", "verify", "plot", "inspect", "certify", "bench", "serve", "loadtest", "deploy")


class Two(nn.Module):
    """Two inputs, told apart by their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.act = HP1()

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.act(left).sum() + self.act(right)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_version(command: str) -> None:
    app = importlib.import_module(f"opau_onnx.cli.{command}").app
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output.strip() == f"opau-{command} {opau_onnx.__version__}"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], None), (["1,3,8,8"], ((1, 3, 8, 8),)), (["1x3"], ((1, 3),)), (["2,4", "2,5"], ((2, 4), (2, 5))),
        (["x:1,4", "y:2"], {"x": (1, 4), "y": (2,)}), (["a:b:1,4"], {"a:b": (1, 4)}),
    ],
)  # fmt: skip
def test_input_shapes(texts: list[str], found: object) -> None:
    assert input_shapes(texts) == found


@pytest.mark.parametrize("texts", [["1,x"], [":1,2"], ["x:"], ["0,2"], ["x:1", "2"]])
def test_wrong_input_shapes(texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as raised:
        input_shapes(texts)
    assert raised.value.exit_code == 2
    assert "--input-shape is" in capsys.readouterr().err


def test_shapes_in_order_are_those_of_a_file_s_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.onnx"
    opau_onnx.export_model(Two().eval(), path, (torch.randn(2, 3), torch.randn(2, 5)), validate=False)
    assert shapes_of_file(["4,3", "4,5"], path) == {"left": (4, 3), "right": (4, 5)}
    assert shapes_of_file(["right:4,5"], path) == {"right": (4, 5)}
    with pytest.raises(typer.Exit):
        shapes_of_file(["1", "2", "3"], path)
    assert "has the inputs left, right" in capsys.readouterr().err


def test_shapes_by_name_for_a_torch_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_inputs.py").write_text("from tests.cli.test_options import Two as build\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(Two().state_dict(), tmp_path / "two.pt")
    source = load(tmp_path / "two.pt", factory="two_inputs:build", input_shapes={"right": (2, 5), "left": (2, 3)})
    assert [tuple(x.shape) for x in source.inputs] == [(2, 3), (2, 5)]
    with pytest.raises(LoadError, match=r"names 'other'; the model takes left, right"):
        load(tmp_path / "two.pt", factory="two_inputs:build", input_shapes={"other": (2, 5), "left": (2, 3)})


def test_only_given_options_of_serving_are_settings() -> None:
    """Each name is a setting of the server or of its models, and what was not given leaves the file's value."""
    assert ModelOptions(device="cpu", max_queue=0).given() == {"device": "cpu", "max_queue": 0}
    assert ServerOptions(tls_cert=Path("a.pem"), http_port=-1).given() == {"http_port": -1, "tls_cert": "a.pem"}
    for options, settings in ((ModelOptions, ModelSettings), (ServerOptions, ServerSettings)):
        assert {field.name for field in fields(options)} <= set(settings.__struct_fields__)
