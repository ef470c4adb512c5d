"""Exported and collapsed files in onnxruntime-node and onnxruntime-web: `make portability`."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.portability import models, programs
from tests.portability.programs import Job, Ran

pytestmark = pytest.mark.portability

PROGRAMS = {
    "node": (programs.find_node, programs.run_in_node), "browser": (programs.find_browser, programs.run_in_browser),
}  # fmt: skip
"""What skips where the program is missing, and what runs it."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "portability.md"


@dataclass(frozen=True, eq=False)
class Made:
    """A work folder, and what is expected of its jobs."""

    folder: Path
    activations: dict[str, list[models.Activation]]


@pytest.fixture(scope="module")
def made(networks: models.Networks, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every network and activation as a job; besides one of a wrong file and one of a file that is none."""
    files = tmp_path_factory.mktemp("activations")
    activations = {name: models.activations(files, name) for name in models.ACTIVATIONS}
    jobs = [Job(path.stem, path.read_bytes(), n.x, 500) for n in map(networks, models.NETWORKS) for path in n.files.values()]
    for each in activations.values():
        for i, activation in enumerate(each):
            kinds = models.KINDS if i == 0 else models.KINDS[1:]
            jobs += [Job(p.stem, p.read_bytes(), activation.x) for k, p in activation.files.items() if k in kinds]
    lenet = networks("lenet")
    jobs += [Job("wrong", spoilt(lenet.files["standard"]), lenet.x[:100]), Job("broken", b"no model", lenet.x[:1])]
    folder = tmp_path_factory.mktemp("work")
    programs.write_jobs(folder, jobs)
    return Made(folder, activations)


def spoilt(path: Path) -> bytes:
    """The file with the constants of its activations off by a thousandth."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("opau.constant"):
            wrong = onnx.numpy_helper.to_array(tensor) * np.float32(1.001)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wrong, tensor.name))
    return model.SerializeToString()


@pytest.fixture(scope="module", params=list(PROGRAMS))
def ran(request: pytest.FixtureRequest) -> Ran:
    find, run = PROGRAMS[request.param]
    find()  # before the work of `made`
    return run(request.getfixturevalue("made").folder)


@pytest.mark.parametrize("kind", models.FILES)
@pytest.mark.parametrize("name", models.NETWORKS)
def test_networks(ran: Ran, networks: models.Networks, name: str, kind: str, record_property: Any) -> None:
    network = networks(name)
    outputs = ran.output(network.files[kind].stem)
    found = network.compare(outputs)
    record_property("portability", network.row(ran.runtime, kind, found, outputs))
    assert found.equal, found
    if name == "lenet":
        assert network.labels(outputs) == 0


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("name", models.ACTIVATIONS)
def test_activations(ran: Ran, made: Made, name: str, kind: str, record_property: Any) -> None:
    each = made.activations[name] if kind == "standard" else made.activations[name][:1]
    for activation in each:
        share = activation.check(ran.output(activation.files[kind].stem), f"{kind} in {ran.runtime}")
        record_property("error / bound", share)


def test_a_wrong_file_is_found(ran: Ran, networks: models.Networks) -> None:
    assert not networks("lenet").compare(ran.output("wrong"), slice(100)).equal


def test_what_cannot_run_is_reported(ran: Ran) -> None:
    with pytest.raises(AssertionError, match=r"cannot run broken: .*protobuf"):
        ran.output("broken")


def lines(language: str) -> str:
    """Those of docs/portability.md."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(code)


def test_the_lines_for_node_in_the_docs(networks: models.Networks, tmp_path: Path) -> None:
    """They run as they stand."""
    node = programs.find_node()
    (tmp_path / "node_modules").symlink_to(programs.PACKAGES)
    (tmp_path / "run.mjs").write_text(f"const pixels = new Float32Array(784);\n{lines('js')}console.log(output.dims.join());\n")
    shutil.copy(networks("lenet").files["standard"], tmp_path / "lenet_standard.onnx")
    ended = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "1,10\n", ended.stderr


def test_the_lines_for_a_browser_in_the_docs(networks: models.Networks, tmp_path: Path) -> None:
    """They run, but for the addresses."""
    programs.find_browser()
    code = lines("html").replace("/ort/", "/node_modules/onnxruntime-web/dist/").replace("/lenet_", "/work/lenet_")
    send = 'await fetch("/work/results.json", { method: "POST", body: output.dims.join() });\n</script>'
    page = "<!doctype html><script>const pixels = new Float32Array(784);</script>" + code.replace("</script>", send)
    (tmp_path / "docs.html").write_text(page)
    shutil.copy(networks("lenet").files["standard"], tmp_path / "lenet_standard.onnx")
    programs.browse(tmp_path, "work/docs.html")
    assert (tmp_path / "results.json").read_text() == "1,10"
