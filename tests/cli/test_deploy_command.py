"""``opau-deploy`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tests.serve import nets

COMMAND = [sys.executable, "-c", "from opau_onnx.cli.deploy import main; main()"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return nets.linear(tmp_path / "m.onnx")


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_triton(model: Path, tmp_path: Path) -> None:
    done = run(
        "triton", model, tmp_path / "models", "--name", "net", "--max-batch-size", "8", "--preferred-batch-size", "4",
        "--max-batch-delay-us", "7", "--max-queue", "3", "--queue-timeout-us", "9", "--queue-delay", "--instances", "2",
        "--threads", "1", "--parameter", "enable_mem_arena=0", "--input-shape", "x:1,4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "net, batches of up to 8 rows, 2 instance(s)" in done.stdout
    assert "Triton itself was not run here" in done.stdout
    config = text_format.Parse((tmp_path / "models/net/config.pbtxt").read_text(), pb.ModelConfig())
    batching = config.dynamic_batching
    assert (config.max_batch_size, list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == (8, [4], 7)
    queue = batching.default_queue_policy
    assert (queue.max_queue_size, queue.default_timeout_microseconds, queue.timeout_action) == (3, 9, pb.ModelQueuePolicy.DELAY)
    assert {k: v.string_value for k, v in config.parameters.items()} == {"enable_mem_arena": "0", "intra_op_thread_count": "1"}
    again = run("triton", model, tmp_path / "models", "--name", "net")
    assert again.returncode == 2
    assert "exists; replace it (--replace)" in again.stderr


def test_ray(model: Path, tmp_path: Path) -> None:
    other = nets.linear(tmp_path / "other.onnx")
    options = ("--autoscale", "1:3", "--max-batch-size", "16", "--grpc-port", "9001")
    done = run("ray", model, other, tmp_path / "serve.yaml", *options)
    assert done.returncode == 0, done.stderr
    assert "checked with the schema of Ray" in done.stdout
    config = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    assert config["applications"][0]["args"]["models"] == {"m": str(model), "other": str(other)}
    assert config["applications"][0]["deployments"][0]["autoscaling_config"]["target_ongoing_requests"] == 16
    assert config["grpc_options"]["port"] == 9001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["triton", "m.onnx", "models", "--parameter", "threads"], "expected KEY=VALUE"),
        (["triton", "m.onnx", "models", "--input-shape", "x:"], "expected [NAME:][DTYPE:]SIZES"),
        (["triton", "m.onnx", "models", "--device", "tpu"], "device is 'tpu'"),
        (["triton", "gone.onnx", "models"], "gone.onnx cannot be read"),
        (["ray", "m.onnx", "c.yaml", "--autoscale", "1-4"], "expected MIN:MAX"),
        (["ray", "m.onnx", "gone/c.yaml"], "No such file"),
    ],
)
def test_usage(arguments: list[str], message: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert [p.name for p in model.parent.iterdir()] == ["m.onnx"]


def test_help_is_quick_to_import() -> None:
    heavy = "{'torch', 'onnxruntime', 'onnx', 'numpy', 'ray', 'tritonclient', 'msgspec'}"
    check = f"import sys, opau_onnx.cli.deploy; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
