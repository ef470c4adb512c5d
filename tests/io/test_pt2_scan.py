"""Exported programs (.pt2): honest ones load, and of those that could run code nothing runs."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from opau_onnx import export_model
from opau_onnx.cli.export import app
from opau_onnx.errors import LoadError
from opau_onnx.io import pt2_scan
from opau_onnx.io.quiet import quiet
from opau_onnx.io.source import load
from opau_onnx.nn import HP2
from tests import attacks

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, while it reads a program


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attacks.program(tmp_path_factory.mktemp("honest") / "net.pt2")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that appears where code ran; its folder is one that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / f"ran_{tmp_path.name}"


def attacked(name: str, honest: Path, marker: Path) -> Path:
    return attacks.write(marker.with_name("net.pt2"), attacks.ATTACKS[name](attacks.read(honest), marker))


def read_as_torch_does(path: Path) -> None:
    """Load and run; whatever torch says of it."""
    try:
        with quiet():
            program = torch.export.load(path)
            program.module()(*program.example_inputs[0])
    except Exception:
        pass


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_nothing_of_an_attack_runs(name: str, honest: Path, marker: Path) -> None:
    path = attacked(name, honest, marker)
    with pytest.raises(LoadError, match="was refused"):
        load(path)
    assert not marker.exists(), "code in the file ran"
    done = CliRunner().invoke(app, [str(path), str(marker.with_name("out.onnx"))])
    assert done.exit_code == 2
    assert not marker.exists()
    assert not marker.with_name("out.onnx").exists()


@pytest.mark.parametrize("name", sorted(set(attacks.ATTACKS) - attacks.STOPPED_BY_TORCH))
def test_the_attacks_are_live(name: str, honest: Path, marker: Path) -> None:
    """Otherwise the test above would prove nothing."""
    read_as_torch_does(attacked(name, honest, marker))
    assert marker.exists()


def test_two_directories_in_one_archive(honest: Path, marker: Path) -> None:
    """What is loaded is what was looked at, not what another reader of zip files finds."""
    members = attacks.read(honest)
    good = attacks.write(marker.with_name("good"), members)
    evil = attacks.write(marker.with_name("evil"), attacks.ATTACKS["sample inputs, protocol 2"](members, marker))
    path = marker.with_name("both.pt2")
    path.write_bytes(attacks.two_directories(good.read_bytes(), evil.read_bytes()))
    assert attacks.read(path) == members
    assert load(path).kind == "exported program"
    assert not marker.exists()
    read_as_torch_does(path)
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_twice(honest: Path, marker: Path) -> None:
    members = attacks.read(honest)
    evil = attacks.ATTACKS["sample inputs, protocol 2"](members, marker)[attacks.SAMPLE]
    for name in (attacks.SAMPLE, attacks.SAMPLE.upper()):
        path = attacks.write(marker.with_name("net.pt2"), members, first={name: evil})
        with pytest.raises(LoadError, match="was refused"):
            load(path)
        assert not marker.exists()


@pytest.mark.parametrize("name", [
    "data/aotinductor/model/model.so", "data/weights/model.SO", "data/constants/custom_obj_0", "data/weights/weight_x", "other",
    "models/model/json", "models/../x.json", "data/weights/../../models/model.json",
])  # fmt: skip
def test_members_that_are_no_part_of_a_program(name: str, honest: Path, tmp_path: Path) -> None:
    path = attacks.write(tmp_path / "net.pt2", {**attacks.read(honest), name: b""})
    with pytest.raises(LoadError, match="was refused"):
        load(path)


def test_damaged_programs(honest: Path, tmp_path: Path) -> None:
    members = attacks.read(honest)
    path = tmp_path / "net.pt2"
    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe{\x00}\x00", b"[]", b"{}"):
        attacks.write(path, {**members, attacks.MODEL: content})
        with pytest.raises(LoadError):
            load(path)
    for missing in (attacks.MODEL, attacks.WEIGHTS, attacks.CONSTANTS, attacks.SAMPLE, "data/weights/weight_0"):
        attacks.write(path, {k: v for k, v in members.items() if k != missing})
        with pytest.raises(LoadError):
            load(path)
    content = bytearray(honest.read_bytes())
    content[content.index(b"torch.ops")] ^= 1  # the checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(LoadError, match="damaged"):
        load(path)


def test_compressed_members_are_refused(honest: Path, tmp_path: Path) -> None:
    """A few bytes may become many."""
    with zipfile.ZipFile(tmp_path / "net.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in attacks.read(honest).items():
            archive.writestr(f"archive/{name}", content)
    with pytest.raises(LoadError, match="compressed"):
        load(tmp_path / "net.pt2")


def test_the_format_of_torch_2_7(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(LoadError, match=r"torch 2\.7"):
        load(tmp_path / "net.pt2")


def test_an_honest_program_is_exported(honest: Path, tmp_path: Path) -> None:
    """With a branch, a lifted constant, two inputs and a dynamic size; its values are those of the module."""
    found = load(honest)
    assert (found.kind, found.name, len(found.inputs)) == ("exported program", "net.pt2", 2)
    result = export_model(honest, tmp_path / "m.onnx")
    assert result.equal, result.validation
    torch.manual_seed(0)
    want = attacks.Small().eval()(*found.inputs)
    with torch.no_grad():
        got = found.model(*found.inputs)
    assert all(np.array_equal(got[k].detach(), want[k].detach()) for k in want)


class Odd(nn.Module):
    """Names that are no identifiers, several sizes, guards and arithmetic on them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"a b/c-1": nn.Conv2d(1, 2, 3), "é": HP2(groups=2)})
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Any) -> Any:
        for part in self.parts.values():
            x = part(x)
        h, w = x.shape[2] // 2, x.shape[3] // 2
        return {"a b": nn.functional.adaptive_avg_pool2d(self.norm(x), (2, 2)), "n": (x[:, :, :h, :w] * (h + w), [x.mean()])}


def test_another_honest_program(tmp_path: Path) -> None:
    dynamic = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(Odd().eval(), (torch.randn(2, 1, 9, 8),), dynamic_shapes=dynamic)
    torch.export.save(exported, tmp_path / "net.pt2")
    assert exported._guards_code, "a program without guards would not tell whether honest guards pass"
    assert load(tmp_path / "net.pt2").model(torch.randn(3, 1, 12, 11))["a b"].shape == (3, 2, 2, 2)


def test_a_program_without_activations(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.randn(3, 2),)), tmp_path / "net.pt2")
    result = export_model(tmp_path / "net.pt2", tmp_path / "m.onnx")
    assert result.equal
    assert result.activations == []


_NASTY = st.text(alphabet="ab()[]{}'\"=,:;#.\\\n _*@!0", min_size=1, max_size=30)


@given(_NASTY)
def test_names_hold_nothing_that_python_acts_upon(text: str) -> None:
    if pt2_scan._wrong("name", text) is None:
        assert text.isidentifier()
    if pt2_scan._wrong("fqn", text) is None:
        assert not set("()[]{}'\"=;#\\\n@!") & set(text)
    if pt2_scan._wrong("target", text) is None:
        assert text.startswith(("torch.", "math.", "_operator."))
