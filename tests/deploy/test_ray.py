"""The config file of Ray Serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from opau_onnx.deploy import ray
from opau_onnx.deploy.ray import Options, deploy_ray, ray_config
from opau_onnx.errors import DeployError, LoadError
from opau_onnx.serve.config import settings
from tests.serve import nets


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return nets.linear(tmp_path / "m.onnx")


def deployment(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]["deployments"][0]
    return found


def test_on_the_cpu(model: Path, tmp_path: Path) -> None:
    other = nets.linear(tmp_path / "other.onnx")
    options = Options(serving={"max_batch_size": 16}, replicas=3, num_cpus=2)
    result = deploy_ray([model, other], tmp_path / "serve.yaml", options)
    text = (tmp_path / "serve.yaml").read_text()
    assert yaml.safe_load(text) == result.config
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in text
    assert "serve deploy serve.yaml" in text
    assert result.checked.startswith("checked with the schema of Ray")
    application = result.config["applications"][0]
    assert application["args"] == {
        "models": {"m": str(model), "other": str(other)}, "max_batch_size": 16, "device": "cpu",
    }  # fmt: skip
    assert application["import_path"] == "opau_onnx.serve.ray:app"
    assert application["route_prefix"] == "/"
    assert deployment(result.config)["num_replicas"] == 3
    assert deployment(result.config)["ray_actor_options"] == {"num_cpus": 2.0, "num_gpus": 0.0}
    assert result.config["http_options"] == {"host": "127.0.0.1", "port": 8000}


def test_the_servicer_is_one(model: Path) -> None:
    import importlib

    (name,) = ray_config([model], Options())["grpc_options"]["grpc_servicer_functions"]
    place, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(place), function))


def test_the_serving_options_are_those_of_the_server(model: Path, tmp_path: Path) -> None:
    given = {"max_batch_size": 8, "max_batch_delay_us": 100, "instances": 2, "cuda_graph": True}
    config = deploy_ray([model], tmp_path / "c.yaml", Options(num_gpus=0.5, serving=given)).config
    args = config["applications"][0]["args"]
    assert args == {"models": {"m": str(model)}, "device": "cuda", **given}
    tables = {key: value for key, value in args.items() if key != "models"}
    assert settings([model], models=tables).models["m"].cuda_graph


def test_the_application_takes_its_arguments(model: Path) -> None:
    from opau_onnx.serve.ray.settings import DEPLOYMENT, arguments

    config = ray_config([model], Options(num_gpus=1, serving={"max_batch_size": 8, "instances": 2, "cuda_graph": True}))
    found = arguments(config["applications"][0]["args"]).settings.models["m"]
    assert (found.path, found.device, found.max_batch_size, found.instances) == (str(model), "cuda", 8, 2)
    assert deployment(config)["name"] == DEPLOYMENT


def test_by_load(model: Path, tmp_path: Path) -> None:
    config = deploy_ray([model], tmp_path / "c.yaml", Options(autoscale=(1, 4), device="cuda")).config
    assert deployment(config)["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 32}
    assert "num_replicas" not in deployment(config)
    assert "max_ongoing_requests" not in deployment(config)  # the application says it
    assert deployment(config)["ray_actor_options"]["num_gpus"] == 1.0
    with pytest.raises(DeployError, match=r"max_replicas \(1\) must be greater"):
        deploy_ray([model], tmp_path / "d.yaml", Options(autoscale=(4, 1)))
    assert not (tmp_path / "d.yaml").exists()


def test_models_elsewhere(model: Path) -> None:
    args = ray_config([model], Options(models_path="/srv/models"))["applications"][0]["args"]
    assert args["models"] == {"m": "/srv/models/m.onnx"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(device="auto"), "expected 'cpu' or 'cuda'"),
        (Options(device="cuda", num_gpus=0), "num_gpus is 0"),
        (Options(device="cpu", num_gpus=1), "num_gpus is 1"),
        (Options(num_gpus=1.5), "whole GPUs"),
        (Options(serving={"cuda_graph": True}), "for the device 'cpu'"),
        (Options(replicas=2, autoscale=(1, 2)), "exclude each other"),
        (Options(target_ongoing_requests=4), "give autoscale"),
        (Options(autoscale=(1, 2), max_ongoing_requests=9), "target_ongoing_requests is 32, more than max_ongoing_requests"),
        (Options(models_path="models"), "absolute path"),
        (Options(replicas=0), "Ray .* refuses this config: .*num_replicas"),
        (Options(max_queued_requests=0), "refuses this config: .*max_queued_requests"),
    ],
)
def test_options_that_contradict_each_other(options: Options, message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=message):
        deploy_ray([model], tmp_path / "c.yaml", options)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_models_that_cannot_be_served(model: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="two models are called 'm'"):
        ray_config([model, model], Options())
    with pytest.raises(LoadError, match="max_batch_size"):
        ray_config([model], Options(serving={"max_batch_size": -1}))
    with pytest.raises(LoadError, match="colour"):
        ray_config([model], Options(serving={"colour": "red"}))
    with pytest.raises(DeployError, match=r"gone\.onnx cannot be served"):
        ray_config([tmp_path / "gone.onnx"], Options())
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(DeployError, match=r"text\.onnx cannot be served"):
        ray_config([tmp_path / "text.onnx"], Options())


def test_a_name_that_ray_would_ignore(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ray_config([model], Options())
    monkeypatch.setattr(ray, "ray_config", lambda *_: {**config, "colour": "red"})
    with pytest.raises(DeployError, match="does not read the whole config"):
        deploy_ray([model], tmp_path / "c.yaml")


def test_without_ray(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ray.importlib.util.find_spec
    monkeypatch.setattr(ray.importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    assert "not checked" in deploy_ray([model], tmp_path / "c.yaml").checked
    monkeypatch.setattr(ray.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeployError, match=r"opau-onnx\[ray\]"):
        deploy_ray([model], tmp_path / "d.yaml")
    assert "yaml" in sys.modules
