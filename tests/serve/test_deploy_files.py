"""The files under docs/deploy: container images, KServe, systemd. Nothing here needs docker or a cluster."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from opau_onnx.cli.serve import app
from opau_onnx.serve.config import ServerSettings
from opau_onnx.serve.http.app import OPEN

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FLAGS = {name for parameter in get_command(app).params for name in parameter.opts}
DRAIN_MARGIN = 5


def check_command(words: list[str]) -> None:
    """Every flag is one of opau-serve's."""
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in FLAGS, word


# Container images

INSTRUCTIONS = {
    *("FROM", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR", "ARG"),
}


def instructions(path: Path) -> list[tuple[str, str]]:
    """(Instruction, the rest of it), lines joined."""
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found = [line.split(None, 1) for line in lines]
    return [(word, rest) for word, rest in found]


def stages(path: Path) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(path):
        assert word in INSTRUCTIONS, word
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


@pytest.fixture(params=["Dockerfile", "Dockerfile.cuda"])
def image(request: pytest.FixtureRequest) -> Path:
    return FOLDER / str(request.param)


def of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for found, rest in stage if found == word]


def test_bases_are_pinned(image: Path) -> None:
    bases = [stage[0][1].split()[0] for stage in stages(image)]
    for base in bases:
        assert re.fullmatch(r"[a-z/]+:\d[\w.-]*", base), base
    if image.name == "Dockerfile":
        python = tuple(map(int, re.findall(r"\d+", bases[-1])[:2]))
        assert python >= tuple(map(int, re.findall(r"\d+", PROJECT["requires-python"])))
        assert len(set(bases)) == 1  # an environment has the paths of its Python in it


def test_the_cuda_release_is_that_of_onnxruntime() -> None:
    information = pytest.importorskip("onnxruntime.capi.build_and_package_info", reason="says what onnxruntime was built for")
    if not getattr(information, "cuda_version", ""):
        pytest.skip("this onnxruntime was built without CUDA")
    for stage in stages(FOLDER / "Dockerfile.cuda"):
        assert f"cuda:{information.cuda_version.split('.')[0]}." in stage[0][1]
        assert "cudnn" in stage[0][1]


def test_stages_copy_what_is_there(image: Path) -> None:
    build, final = stages(image)
    assert build[0][1].endswith(" AS build")
    for stage in (build, final):
        for rest in of(stage, "COPY"):
            source, _ = rest.split()[-2:]
            if "--from=build" in rest:
                assert any(source in run for run in of(build, "RUN"))
            else:
                assert (ROOT / source).exists()
    extras = re.findall(r"/src\[(\w+)\]", "".join(of(build, "RUN")))
    assert extras
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    assert "get_library_path" in "".join(of(build, "RUN"))


def test_packages_leave_no_lists_behind(image: Path) -> None:
    for rest in (rest for stage in stages(image) for rest in of(stage, "RUN") if "apt-get" in rest):
        assert "--no-install-recommends" in rest
        assert "rm -rf /var/lib/apt/lists/*" in rest
    assert all("--no-cache-dir" in rest for stage in stages(image) for rest in of(stage, "RUN") if "pip install" in rest)


def test_the_command_of_an_image(image: Path) -> None:
    final = stages(image)[-1]
    (program,) = json.loads(of(final, "ENTRYPOINT")[0])  # in brackets: signals go to the command, not to a shell
    assert program in PROJECT["scripts"]
    check_command(json.loads(of(final, "CMD")[0]))
    assert of(final, "USER") == ["10001"]
    assert of(final, "STOPSIGNAL") == ["SIGTERM"]
    settings = ServerSettings()
    assert of(final, "EXPOSE") == [f"{settings.http_port} {settings.grpc_port}"]
    (health,) = of(final, "HEALTHCHECK")
    found = re.search(r"127\.0\.0\.1:(\d+)(/[\w/]+)", health)
    assert found
    assert (int(found[1]), found[2] in OPEN) == (settings.http_port, True)
    code = json.loads(health[health.index("[") :])[2]
    compile(code, str(image), "exec")


def test_what_is_not_sent_to_the_build(image: Path) -> None:
    ignored = image.with_name(f"{image.name}.dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv"} <= set(ignored)


# KServe: what its published schemas (v1alpha1 ServingRuntime, v1beta1 InferenceService) require, and names that they know

PROBE = {"httpGet": {"path!": str, "port!": int}, "periodSeconds": int, "failureThreshold": int}
RUNTIME: dict[str, Any] = {
    "apiVersion!": "serving.kserve.io/v1alpha1",
    "kind!": "ServingRuntime",
    "metadata!": {"name!": str},
    "spec!": {
        "supportedModelFormats!": [{"name!": str, "version": str, "autoSelect": bool}],
        "protocolVersions": [str],
        "multiModel": bool,
        "containers!": [
            {
                "name!": "kserve-container",
                "image!": str,
                "args": [str],
                "ports": [{"name": str, "containerPort!": int, "protocol": str}],
                **{f"{name}Probe": PROBE for name in ("startup", "readiness", "liveness")},
                "resources": {part: {"cpu": str, "memory": str} for part in ("requests", "limits")},
                "securityContext": {
                    "allowPrivilegeEscalation": bool,
                    "runAsNonRoot": bool,
                    "capabilities": {"drop": [str]},
                },
            }
        ],
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion!": "serving.kserve.io/v1beta1",
    "kind!": "InferenceService",
    "metadata!": {"name!": str},
    "spec!": {
        "predictor!": {
            "minReplicas": int,
            "terminationGracePeriodSeconds": int,
            "model!": {
                "modelFormat!": {"name!": str},
                "runtime": str,
                "protocolVersion": str,
                "storageUri": str,
            },
        }
    },
}


def errors(schema: Any, value: Any, where: str = "") -> Iterator[str]:
    """What does not fit; names that end with ! are required, others are those that may be there."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            yield f"{where} is no table"
            return
        known = {name.rstrip("!"): part for name, part in schema.items()}
        yield from (f"{where}.{name} is unknown" for name in value.keys() - known.keys())
        yield from (f"{where}.{name[:-1]} is missing" for name in schema if name.endswith("!") and name[:-1] not in value)
        for name in value.keys() & known.keys():
            yield from errors(known[name], value[name], f"{where}.{name}")
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{where} is no list"
            return
        for number, one in enumerate(value):
            yield from errors(schema[0], one, f"{where}[{number}]")
    elif isinstance(schema, type):
        if not isinstance(value, schema) or (schema is int and isinstance(value, bool)):
            yield f"{where} is {value!r}; expected {schema.__name__}"
    elif value != schema:
        yield f"{where} is {value!r}; expected {schema!r}"


@pytest.fixture
def kserve() -> tuple[dict[str, Any], dict[str, Any]]:
    runtime, service = yaml.safe_load_all((FOLDER / "kserve.yaml").read_text(encoding="utf-8"))
    return runtime, service


def test_kserve_files_fit_the_schemas(kserve: tuple[dict[str, Any], dict[str, Any]]) -> None:
    runtime, service = kserve
    assert not list(errors(RUNTIME, runtime))
    assert not list(errors(SERVICE, service))
    del runtime["spec"]["containers"][0]["image"]
    runtime["spec"]["container"] = {}
    assert list(errors(RUNTIME, runtime)) == [".spec.container is unknown", ".spec.containers[0].image is missing"]


def test_the_runtime_serves_what_the_service_asks_for(kserve: tuple[dict[str, Any], dict[str, Any]]) -> None:
    runtime, service = kserve
    model, spec = service["spec"]["predictor"]["model"], runtime["spec"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [one["name"] for one in spec["supportedModelFormats"]]
    assert model["protocolVersion"] in spec["protocolVersions"]
    (container,) = spec["containers"]
    check_command(container["args"])
    ports = {port["containerPort"] for port in container["ports"]}
    assert f"--http-port={min(ports)}" in container["args"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in OPEN
        assert container[probe]["httpGet"]["port"] in ports
    # Its clients ask for the model by the service's name, and ours is that of the file.
    assert "/mnt/models/{{.Name}}.onnx" in container["args"]
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] >= ServerSettings().drain_timeout_s + DRAIN_MARGIN


# systemd


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(FOLDER / "opau-serve.service", encoding="utf-8")
    return found


def test_the_unit_lets_the_server_drain() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "mixed"  # with --engine ray, SIGTERM to every process would end the replicas too
    assert service["KillSignal"] == "SIGTERM"
    assert float(service["TimeoutStopSec"]) >= ServerSettings().drain_timeout_s + DRAIN_MARGIN
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).is_absolute()
    assert Path(program).name in PROJECT["scripts"]
    check_command(words)
    assert int(service["LimitNOFILE"]) > 2 * ServerSettings().max_connections


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program that is there, since systemd looks for it."""
    text = (FOLDER / "opau-serve.service").read_text(encoding="utf-8")
    installed = Path(sys.executable).with_name("opau-serve")
    program = installed if installed.exists() else sys.executable

    def verify(content: str) -> tuple[int, str]:
        path = tmp_path / "opau-serve.service"
        path.write_text(content, encoding="utf-8")
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stderr

    good = text.replace("/opt/opau/bin/opau-serve", str(program))
    assert verify(good) == (0, "")
    assert "Failed to parse" in verify(good.replace("KillMode=mixed", "KillMode=gently"))[1]
