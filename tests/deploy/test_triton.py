"""A Triton model repository, as it lies on the disk in the end."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2 as pb

from opau_onnx.core.spec import Config
from opau_onnx.deploy import configure, library, readme, repository
from opau_onnx.deploy.options import Options
from opau_onnx.deploy.triton import deploy_triton
from opau_onnx.errors import DeployError, LibraryError, LoadError
from opau_onnx.native.library import get_library_path
from opau_onnx.protocol.model_config import QueuePolicy
from tests.custom_ops.library import required_library
from tests.export import single
from tests.serve import nets

CASE = single.Case(Config())


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """A model with a learned activation. Without the op library there is nothing to deploy it with."""
    required_library()
    path = tmp_path / "learned.onnx"
    path.write_bytes(single.model(CASE, ["batch", 3], single.coefficients(CASE)).SerializeToString())
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return nets.linear(tmp_path / "plain.onnx")


def config_of(repository: Path, name: str) -> Any:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), pb.ModelConfig())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def served(repository: Path, name: str, x: Any) -> Any:
    """What Triton's backend does: the op libraries of the config registered, then a session of the path."""
    options = onnxruntime.SessionOptions()
    for path in config_of(repository, name).model_operations.op_library_filename:
        options.register_custom_ops_library(path)
    path = repository / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_a_repository_with_the_library(learned: Path, tmp_path: Path) -> None:
    result = deploy_triton(learned, tmp_path / "models")
    models = tmp_path / "models"
    assert result.facts is not None
    copy = models / result.facts.name
    assert sorted(tree(models)) == sorted(
        ["README.md", "learned/1/model.onnx", "learned/config.pbtxt", copy.name, copy.with_suffix(".json").name]
    )
    assert (models / "learned/1/model.onnx").read_bytes() == learned.read_bytes()
    assert copy.read_bytes() == Path(get_library_path()).read_bytes()
    assert result.library == str(copy.resolve())
    config = config_of(models, "learned")
    assert config == result.config
    assert list(config.model_operations.op_library_filename) == [result.library]
    assert (config.backend, config.platform, config.max_batch_size) == ("onnxruntime", "", 32)
    assert [run.batch_size for run in config.model_warmup] == [1, 32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024
    # The functions of the file give the same as the library that config.pbtxt names.
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
    bodies = onnxruntime.InferenceSession(str(learned), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert np.allclose(served(models, "learned", x), bodies, rtol=1e-5, atol=1e-5)
    assert any("learned activations: kernel" in note for note in result.notes)


def test_the_readme_says_what_fits_and_what_was_not_run(learned: Path, tmp_path: Path) -> None:
    result = deploy_triton(learned, tmp_path / "models", Options(repository_path="/models"))
    text = result.readme.read_text()
    assert "| learned | x FP32 [3] | y FP32 [3] | up to 32 rows | KIND_CPU × 1 | `/models/libopau_onnx_ops-" in text
    assert f"-v {(tmp_path / 'models').resolve()}:/models:ro" in text
    assert "26.07 (onnxruntime 1.27.0) and newer ones" in text
    assert "No Triton server with an onnxruntime backend was at hand" in text
    assert result.facts is not None
    for family, version in result.facts.versions.items():
        assert f"{family} {version}" in text


def test_more_models_share_the_library_and_the_readme(learned: Path, plain: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    deploy_triton(learned, models)
    deploy_triton(learned, models, Options(name="again", max_batch_size=0))
    result = deploy_triton(plain, models)
    assert len(list(models.glob("*.so"))) == 1
    assert result.library is None
    assert not config_of(models, "plain").HasField("model_operations")
    text = result.readme.read_text()
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:4] == ["| again", "| learned", "| plain"]
    assert "## Op library" in text


def test_an_existing_model_stays_unless_told_otherwise(plain: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    deploy_triton(plain, models)
    before = tree(models)
    other = nets.linear(tmp_path / "plain2.onnx", slope=3.0)
    with pytest.raises(DeployError, match="exists; replace it"):
        deploy_triton(other, models, Options(name="plain"))
    assert tree(models) == before
    (models / "plain" / "2").mkdir()
    deploy_triton(other, models, Options(name="plain", replace=True, max_batch_size=4))
    assert (models / "plain/1/model.onnx").read_bytes() == other.read_bytes()
    assert config_of(models, "plain").max_batch_size == 4
    assert not (models / "plain" / "2").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_another_readme_stays(plain: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "README.md").write_text("mine")
    result = deploy_triton(plain, models)
    assert (models / "README.md").read_text() == "mine"
    assert result.readme.name == "README.opau.md"
    assert readme.MARK in result.readme.read_text()


def test_another_model_in_the_repository_is_named(plain: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "theirs").mkdir(parents=True)
    (models / "theirs" / "config.pbtxt").write_bytes(b"\xff not text")
    assert "| theirs | config.pbtxt cannot be read |" in deploy_triton(plain, models).readme.read_text()


def test_weights_in_other_files_come_along(plain: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    onnx.save_model(model, tmp_path / "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    models = tmp_path / "elsewhere"
    deploy_triton(tmp_path / "ext.onnx", models)
    assert (models / "ext/1/w.bin").read_bytes() == (tmp_path / "w.bin").read_bytes()
    for name in ("ext.onnx", "w.bin"):
        (tmp_path / name).unlink()
    assert np.array_equal(served(models, "ext", np.ones((2, 4), np.float32)), np.full((2, 4), 3, np.float32))


@pytest.mark.parametrize(("make", "reason"), [(nets.fixed, "fixed"), (nets.mixing, "over the rows of a batch")])
def test_what_cannot_be_batched(make: Any, reason: str, tmp_path: Path) -> None:
    model = make(tmp_path / "m.onnx")
    result = deploy_triton(model, tmp_path / "models")
    assert result.config.max_batch_size == 0
    assert any(reason in note for note in result.notes)
    assert [run.batch_size for run in result.config.model_warmup] == [1]
    senseless: list[dict[str, Any]] = [
        {"max_batch_size": 8}, {"preferred": (2,)}, {"queue": QueuePolicy(5)}, {"max_batch_delay_us": 1},
    ]  # fmt: skip
    for wrong in senseless:
        with pytest.raises((DeployError, LoadError), match=f"{reason}|cannot be set"):
            deploy_triton(model, tmp_path / "other", Options(**wrong))
    assert not (tmp_path / "other").exists()


def test_rows_that_are_not_one(tmp_path: Path) -> None:
    model = nets.identity(tmp_path / "m.onnx", TensorProto.INT64, [8, 3])
    config = deploy_triton(model, tmp_path / "models").config
    assert list(config.input[0].dims) == [8, 3]
    assert list(config.model_warmup[0].inputs["x"].dims) == [8, 3]


def test_the_check_of_rows_can_be_left_out(tmp_path: Path) -> None:
    options = Options(max_batch_size=8, batch_check=False)
    assert deploy_triton(nets.mixing(tmp_path / "m.onnx"), tmp_path / "models", options).config.max_batch_size == 8


def test_open_axes_need_sizes_to_warm_up(tmp_path: Path) -> None:
    model = nets.pair(tmp_path / "m.onnx")
    cold = deploy_triton(model, tmp_path / "models")
    assert not cold.config.model_warmup
    assert any("--input-shape" in note for note in cold.notes)
    warm = deploy_triton(model, tmp_path / "models", Options(replace=True, input_shapes={"b": (1, 7)}, preferred=(4,)))
    assert [run.batch_size for run in warm.config.model_warmup] == [1, 4, 32]
    assert list(warm.config.model_warmup[0].inputs["b"].dims) == [7]
    with pytest.raises(LoadError, match="input_shapes has"):
        deploy_triton(model, tmp_path / "models", Options(replace=True, input_shapes={"b": (1, 2, 3)}))
    assert not deploy_triton(
        model, tmp_path / "models", Options(replace=True, input_shapes={"b": (1, 7)}, warmup=False)
    ).config.model_warmup


def test_a_gpu(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = library.read()
    with_cuda = replace(facts, cuda="13.0")
    monkeypatch.setattr(library, "read", lambda path: with_cuda)
    options = Options(
        device="cuda", instances=2, gpus=(1,), threads=3, cuda={"use_tf32": "0", "gpu_mem_limit": "99"},
        parameters={"enable_mem_pattern": "1"},
    )  # fmt: skip
    config = deploy_triton(learned, tmp_path / "models", options).config
    group = config.instance_group[0]
    assert (group.kind, group.count, list(group.gpus)) == (pb.ModelInstanceGroup.KIND_GPU, 2, [1])
    assert {k: v.string_value for k, v in config.parameters.items()} == {
        "enable_mem_pattern": "1", "gpu_mem_limit": "99", "intra_op_thread_count": "3",
    }  # fmt: skip
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator[0]
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    monkeypatch.setattr(library, "read", lambda path: replace(facts, cuda=None))
    with pytest.raises(LibraryError, match="built without CUDA"):
        deploy_triton(learned, tmp_path / "models", Options(device="cuda", name="other"))
    deploy_triton(learned, tmp_path / "models", Options(device="cuda", name="slow", library=False))
    assert not config_of(tmp_path / "models", "slow").HasField("model_operations")


def test_a_model_that_onnxruntime_cannot_run_here(tmp_path: Path) -> None:
    """A convolution in bfloat16 between casts: CUDA runs it, onnxruntime's CPU does not."""
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        onnx.helper.make_node("Conv", ["b", "w"], ["c"]),
        onnx.helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    weight = onnx.helper.make_tensor("w", TensorProto.BFLOAT16, [1, 1, 1, 1], [1.0])
    graph = onnx.helper.make_graph(
        nodes, "g", [nets.value("x", ["batch", 1, 4, 4])], [nets.value("y", ["batch", 1, 4, 4])], [weight]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LoadError, match=r"m\.onnx"):
        deploy_triton(path, tmp_path / "models")
    result = deploy_triton(path, tmp_path / "models", Options(device="cuda"))
    assert any("not opened here" in note for note in result.notes) == (not has_cuda())
    assert result.config.max_batch_size == (32 if has_cuda() else 0)  # rows that were never run may depend on each other
    trusted = deploy_triton(path, tmp_path / "models", Options(device="cuda", replace=True, batch_check=False))
    assert list(trusted.config.input[0].dims) == [1, 4, 4]
    assert trusted.config.max_batch_size == 32


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_a_library_on_the_server(learned: Path, tmp_path: Path) -> None:
    result = deploy_triton(learned, tmp_path / "models", Options(library_path="/opt/ops.so"))
    assert list(result.config.model_operations.op_library_filename) == ["/opt/ops.so"]
    assert not list((tmp_path / "models").glob("*.so"))
    assert "It is not in this folder" in result.readme.read_text()


def test_a_library_for_another_machine(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(library.read(), machine="riscv64")
    assert other.machine != platform.machine()
    monkeypatch.setattr(library, "read", lambda path: other)
    notes = deploy_triton(learned, tmp_path / "models").notes
    assert any("one for riscv64" in note for note in notes)
    assert any("learned activations: function" in note for note in notes)


def test_without_the_library(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPAU_LIBRARY", str(tmp_path / "nothing.so"))
    with pytest.raises(LibraryError, match="no such file"):
        deploy_triton(learned, tmp_path / "models")
    assert not (tmp_path / "models").exists()
    assert deploy_triton(learned, tmp_path / "models", Options(library=False)).library is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(name="a/b"), "cannot name a model"),
        (Options(name=".."), "cannot name a model"),
        (Options(device="tpu"), "device is 'tpu'"),
        (Options(instances=0), "instances is 0"),
        (Options(preferred=(64,)), "preferred batch sizes"),
        (Options(gpus=(0,)), "for the device 'cpu'"),
        (Options(cuda={"use_tf32": "0"}), "for the device 'cpu'"),
        (Options(repository_path="models"), "repository_path is 'models'"),
        (Options(library_path="/ops.so"), "no learned activation"),
        (Options(parameters={"x": "1"}), "no parameter 'x'"),
        (Options(threads=2, parameters={"intra_op_thread_count": "1"}), "give one of them"),
        (Options(device="cuda", cuda={"enable_cuda_graph": "1"}), "results would be wrong"),
    ],
)
def test_options_that_make_no_sense(options: Options, message: str, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=message):
        deploy_triton(plain, tmp_path / "models", options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.onnx"]


def test_bfloat16_tensors(tmp_path: Path) -> None:
    model = nets.identity(tmp_path / "m.onnx", TensorProto.BFLOAT16)
    with pytest.raises(DeployError, match="BF16, which Triton's onnxruntime backend does not take"):
        deploy_triton(model, tmp_path / "models")


def test_a_record_that_is_none(plain: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "libopau_onnx_ops-1-ab.json").write_text("{}")
    with pytest.raises(LibraryError, match="no record of a library"):
        deploy_triton(plain, models)
    assert [p.name for p in models.iterdir()] == ["libopau_onnx_ops-1-ab.json"]


def test_places_that_cannot_be_written(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="expected a folder of models"):
        deploy_triton(plain, plain)
    with pytest.raises(DeployError, match="cannot make the folder"):
        deploy_triton(plain, tmp_path / "a" / "b")


def test_a_failure_leaves_what_was_there(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    deploy_triton(plain, models)
    before, rename = tree(models), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if Path(target) == models / "plain":
            monkeypatch.setattr(Path, "rename", rename)  # the old one may come back
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"):
        deploy_triton(plain, models, Options(replace=True, max_batch_size=1))
    assert tree(models) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "plain.onnx"]


def test_a_polling_server_never_sees_half_a_model(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes every folder in the repository for a model, those with a dot too."""
    models = tmp_path / "models"
    models.mkdir()
    seen: list[list[str]] = []
    configured, publish = configure.configured, repository.publish
    monkeypatch.setattr(configure, "configured", lambda *a: (seen.append(tree_names(models)), configured(*a))[1])
    monkeypatch.setattr(repository, "publish", lambda *a: (seen.append(tree_names(models)), publish(*a))[1])
    deploy_triton(plain, models)
    assert seen == [[], []]


def tree_names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.is_dir()]


def test_a_name_with_line_ends_stays_in_its_comment(plain: Path, tmp_path: Path) -> None:
    odd = plain.rename(tmp_path / "a\nname: 'b'.onnx")
    deploy_triton(odd, tmp_path / "models", Options(name="m"))
    assert config_of(tmp_path / "models", "m").name == "m"


def test_no_web_server_is_loaded() -> None:
    check = (
        "import sys, opau_onnx.deploy.triton, opau_onnx.deploy.ray, opau_onnx.protocol.model_config\n"
        "sys.exit(bool({'starlette', 'uvicorn', 'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
