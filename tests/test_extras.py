"""What works without the packages of the extras, and what is said where one is missing. A finder hides them from Python."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

import opau_onnx
from opau_onnx._extras import EXTRAS, explained, remedy
from opau_onnx.core.spec import Config
from tests.cli.test_bench_command import TINY
from tests.cli.test_serve_command import Process
from tests.export import single

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
COMMANDS = {name.removeprefix("opau-"): where.partition(":")[0] for name, where in PROJECT["scripts"].items()}
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""
CHECKPOINT = ROOT / "models" / "lenet_hp1_fashion_mnist.pt"


def code(program: str, without: tuple[str, ...] = EXTRAS["export"]) -> list[str]:
    return [sys.executable, "-c", HIDE.format(hidden=set(without)) + program]


def python(program: str, *without: str) -> subprocess.CompletedProcess[str]:
    line = code(program, without) if without else code(program)
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


def command(name: str, *arguments: Any) -> str:
    return f"sys.argv = {['opau-' + name, *map(str, arguments)]}\nfrom {COMMANDS[name]} import main\nmain()"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = single.Case(Config())
    path = tmp_path_factory.mktemp("extras") / "hp1.onnx"
    path.write_bytes(single.model(case, ["batch", 4], single.coefficients(case)).SerializeToString())
    return path


def test_nothing_of_the_extras_is_a_dependency() -> None:
    """Two packages of onnxruntime would overwrite each other, so no extra but cpu and gpu brings one."""
    needed = {Requirement(r).name for r in PROJECT["dependencies"]}
    assert not needed & {"torch", "scipy", "safetensors", "jinja2", "onnxruntime", "onnxruntime-gpu"}
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra not in ("cpu", "gpu", "dev"):
            assert not [r for r in requirements if r.startswith("onnxruntime") or "[cpu" in r or "[gpu" in r], extra


def brought(requirements: list[str], seen: set[str]) -> set[str]:
    """The distributions that requirements bring here, with their own."""
    for requirement in map(Requirement, requirements):
        if requirement.name == "opau-onnx":
            brought([r for extra in requirement.extras for r in PROJECT["optional-dependencies"][extra]], seen)
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        marked = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *requirement.extras))
        if name not in seen and marked:
            seen.add(name)
            own = metadata.requires(name) or []
            wanted = [r for r in own if "extra ==" not in r]
            wanted += [r.partition(";")[0] for r in own for e in requirement.extras if re.search(f"extra == ['\"]{e}['\"]", r)]
            brought(wanted, seen)
    return seen


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra != "cpu"])  # this environment has the other
def test_each_extra_brings_the_modules_that_it_is_asked_for(extra: str) -> None:
    found = metadata.packages_distributions()
    names = brought(PROJECT["optional-dependencies"][extra], set())
    missing = {m for m in EXTRAS[extra] if not {re.sub(r"[-_.]+", "-", d).lower() for d in found[m]} & names}
    assert not missing


def test_files_run_without_pytorch(file: Path) -> None:
    done = python(f"""
import numpy as np, opau_onnx
from opau_onnx.runtime.assignment import assignments
session = opau_onnx.create_session({str(file)!r}, "cpu")
print(session.run(None, {{"x": np.ones((2, 4), np.float32)}})[0].tolist())
assert not {{"torch", "scipy"}} & set(sys.modules)
""")
    assert done.returncode == 0, done.stderr
    here = opau_onnx.create_session(file, "cpu").run(None, {"x": np.ones((2, 4), np.float32)})[0]
    assert done.stdout.strip() == str(here.tolist())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("inspect", ["FILE"], "1 activation"),
        ("certify", ["FILE", "--quick", "--dtypes", "float16"], "nothing wrong was found"),
        ("deploy", ["triton", "FILE", "OUT"], "hp1: hp1"),
        *((name, ["--help"], "Usage: ") for name in COMMANDS),
    ],
)
def test_commands_without_pytorch(name: str, arguments: list[str], said: str, file: Path, tmp_path: Path) -> None:
    given = [{"FILE": file, "OUT": tmp_path / "repository"}.get(a, a) for a in arguments]
    done = python(command(name, *given))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_serving_without_pytorch(file: Path) -> None:
    """And the load test, every answer checked against the file."""
    serve = command("serve", file, "--http-port", "0", "--grpc-port", "0", "--log-format", "json")
    with subprocess.Popen(code(serve), stderr=subprocess.PIPE, text=True) as process:
        try:
            server = Process(process)
            url = f"http://127.0.0.1:{server.ports()['http']}"
            done = python(command("loadtest", url, "--requests", 40, "--warmup", 0, "--clients", 2, "--expect", file))
            assert done.returncode == 0, done.stderr
            assert "all responses were correct" in done.stdout
            assert server.end() == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("export", [CHECKPOINT, "OUT"]),
        ("collapse", ["FILE", "OUT"]),
        ("verify", [CHECKPOINT, "FILE"]),
        ("plot", ["FILE", "OUT.png"]),
        ("bench", []),
        ("inspect", [CHECKPOINT]),
    ],
)
def test_commands_that_need_pytorch_say_so(name: str, arguments: list[Any], file: Path, tmp_path: Path) -> None:
    given = [{"FILE": file, "OUT": tmp_path / "out.onnx", "OUT.png": tmp_path / "out.png"}.get(a, a) for a in arguments]
    done = python(command(name, *given))
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == "error: torch is not installed, and this needs it: pip install 'opau-onnx[export]'"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["opau_onnx.export_model", "opau_onnx.nn", "from opau_onnx.collapse import collapse_model"])
def test_names_that_need_pytorch_say_so(program: str) -> None:
    done = python(f"import opau_onnx\n{program}")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("torch is not installed, and this needs it: pip install 'opau-onnx[export]'")


@pytest.mark.parametrize(("name", "exit_code"), [("inspect", 0), ("serve", 2)])
def test_without_onnxruntime(name: str, exit_code: int, file: Path) -> None:
    """Both of its packages are named: which one is wanted, only the user can say. A file is listed all the same."""
    gone = "from opau_onnx.runtime import installation\ninstallation.packages, installation._whole = dict, lambda: False\n"
    done = python(f"{gone}{command(name, file)}")
    assert done.returncode == exit_code, done.stderr
    said = (
        "onnxruntime, which runs the models, is not installed: pip install 'opau-onnx[cpu]', or 'opau-onnx[gpu]' to run on CUDA"
    )
    assert said in (done.stdout if exit_code == 0 else done.stderr)


def test_serving_without_the_packages_of_the_server(file: Path) -> None:
    done = python(command("serve", file), "uvicorn")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: uvicorn is not installed, and this needs it: pip install 'opau-onnx[serve]'"


def test_a_module_of_no_extra() -> None:
    assert explained(ModuleNotFoundError("No module named 'mine'", name="mine")) == (
        "No module named 'mine'; install the package that holds it"
    )
    assert remedy("opentelemetry.sdk") == "pip install 'opau-onnx[otel]'"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("export", [CHECKPOINT, "OUT"]),
        ("collapse", ["FILE", "OUT"]),
        ("verify", [CHECKPOINT, "FILE", "--data", CHECKPOINT]),
        ("inspect", ["FILE"]),
        ("plot", ["FILE", "OUT.png"]),
        ("bench", [*TINY, "--device", "cuda"]),
    ],
)
def test_commands_say_once_that_there_are_no_kernels(name: str, arguments: list[Any], file: Path, tmp_path: Path) -> None:
    """Whatever the command ends with: the build that went without was silent."""
    given = [{"FILE": file, "OUT": tmp_path / "out.onnx", "OUT.png": tmp_path / "out.png"}.get(a, a) for a in arguments]
    gone = "import os\nos.environ['OPAU_LIBRARY'] = '/nowhere.so'\n"
    done = python(f"{gone}{command(name, *given)}", "nothing")
    said = [line for line in done.stderr.splitlines() if "/nowhere.so" in line]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("compiled kernels are not installed, so learned activations are many times slower: OPAU_LIBRARY")
