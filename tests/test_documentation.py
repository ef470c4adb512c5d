"""The tutorial's blocks and the examples run as they stand; the reference and the site hold what they should."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import opau_onnx
import opau_onnx.nn

DOCS = Path(__file__).resolve().parent.parent / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "tutorial.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    space: dict[str, object] = {"__name__": "tutorial"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"tutorial.md, block {number}", "exec"), space)
    assert space["accuracy"] > 0.6  # chance is 0.1
    assert space["moved"] > 0.001
    assert {p.name for p in tmp_path.iterdir()} == {"net.onnx", "net_standard.onnx", "samples.npz"}
    assert "of the images that it has not seen" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_an_example(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    out = capsys.readouterr().out
    assert out
    assert "False" not in out.replace("library=False", "")


def test_every_example_is_listed() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (DOCS / "examples" / "index.md").read_text("utf-8"))
    assert sorted(listed) == [p.name for p in EXAMPLES]


def test_the_reference_holds_every_public_name() -> None:
    listed = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference" / "index.md").read_text("utf-8"), re.MULTILINE)
    public = [getattr(m, name) for m in (opau_onnx, opau_onnx.nn) for name in m.__all__ if name != "__version__"]
    expected = {f"{o.__module__}.{o.__qualname__}" for o in public}
    assert expected <= set(listed)
    assert set(listed) - expected == {"models.create", "models.path"}  # where the repository has them


def test_every_page_is_in_the_site() -> None:
    text = (DOCS / "site" / "mkdocs.yml").read_text("utf-8")
    pages = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))


LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", sorted(DOCS.parent.glob("*.md")), ids=lambda p: p.name)
def test_links_of_pages_outside_the_site(page: Path) -> None:
    """``make docs`` checks those of docs/."""
    missing = [target for target in LINK.findall(page.read_text("utf-8")) if not (page.parent / target).exists()]
    assert not missing


def test_an_index_shows_no_relative_link() -> None:
    settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))
    text = (DOCS.parent / "README.md").read_text("utf-8")
    assert LINK.findall(text)
    for change in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert "tutorial goes from training to serving" in " ".join(text.split())
    assert not LINK.findall(text)
