"""The ModelConfig of a model, and what refuses a wrong one."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from opau_onnx.deploy.check import UNSERVED, check, parse
from opau_onnx.errors import DeployError
from opau_onnx.protocol.model_config import QueuePolicy, WarmUp, config_json, model_config
from opau_onnx.protocol.tensors import DATATYPES, TensorSpec

X, Y = TensorSpec("x", "FP32", (-1, 3, 4)), TensorSpec("y", "INT64", (-1,))


def usual(**more: Any) -> Any:
    given = {"max_batch_size": 8, "delay_us": 500, "preferred": (4, 8), "warmup": [WarmUp(8, {"x": (3, 4)})], **more}
    return model_config("m", [X], [Y], **given)


def test_the_whole_message() -> None:
    config = model_config(
        "m", [X], [Y], max_batch_size=8, delay_us=500, preferred=(4, 8), instances=2, device="cuda", library="/l/ops.so",
        parameters={"intra_op_thread_count": "1"}, cuda={"use_tf32": "0"}, gpus=(0, 2),
        queue=QueuePolicy(max_size=9, timeout_us=7, delay=True, override=True), warmup=[WarmUp(8, {"x": (3, 4)})],
    )  # fmt: skip
    expected = """
    name: "m" backend: "onnxruntime" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: [3, 4] }
    output { name: "y" data_type: TYPE_INT64 dims: [1] reshape { shape: [] } }
    instance_group [{ kind: KIND_GPU count: 2 gpus: [0, 2] }]
    dynamic_batching {
      preferred_batch_size: [4, 8] max_queue_delay_microseconds: 500
      default_queue_policy {
        max_queue_size: 9 default_timeout_microseconds: 7 timeout_action: DELAY allow_timeout_override: true
      }
    }
    model_operations { op_library_filename: "/l/ops.so" }
    parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
    optimization { execution_accelerators { gpu_execution_accelerator: [{
      name: "cuda" parameters { key: "use_tf32" value: "0" }
    }] } }
    model_warmup [{
      name: "rows: 8" batch_size: 8 count: 1
      inputs { key: "x" value: { data_type: TYPE_FP32 dims: [3, 4] zero_data: true } }
    }]
    """
    assert config == text_format.Parse(expected, pb.ModelConfig())
    check(config, [X], [Y])


def test_without_batches_shapes_are_whole_and_there_is_no_batcher() -> None:
    scalar = TensorSpec("s", "FP64", ())
    config = model_config("m", [X, scalar], [Y], warmup=[WarmUp(1, {"x": (2, 3, 4), "s": ()})])
    assert [list(entry.dims) for entry in (*config.input, *config.output)] == [[-1, 3, 4], [1], [-1]]
    assert not config.HasField("dynamic_batching")
    assert not config.output[0].HasField("reshape")
    check(config, [X, scalar], [Y])


@pytest.mark.parametrize("name", [name for name in DATATYPES if name not in UNSERVED])
def test_every_data_type_has_its_name_in_the_schema(name: str) -> None:
    spec = TensorSpec("t", name, (-1, 2))
    config = model_config("m", [spec], [spec], max_batch_size=4)
    assert pb.DataType.Name(config.input[0].data_type) == f"TYPE_{name}"
    check(config, [spec], [spec])


@pytest.mark.parametrize("name", UNSERVED)
def test_what_the_backend_does_not_take(name: str) -> None:
    spec = TensorSpec("t", name, (-1, 2))
    with pytest.raises(DeployError, match="does not take"):
        check(model_config("m", [spec], [spec]), [spec], [spec])


specs = st.builds(
    TensorSpec,
    name=st.text(min_size=1, max_size=8),
    datatype=st.sampled_from([name for name in DATATYPES if name not in UNSERVED]),
    shape=st.lists(st.integers(1, 9) | st.just(-1), max_size=3).map(lambda rest: (-1, *rest)),
)
several = st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec.name)


@settings(max_examples=60, deadline=None)
@given(inputs=several, outputs=several, largest=st.integers(0, 64))
def test_any_tensors_read_back_and_fit(inputs: list[TensorSpec], outputs: list[TensorSpec], largest: int) -> None:
    config = model_config("m", inputs, outputs, max_batch_size=largest)
    assert parse(text_format.MessageToString(config)) == config
    check(config, inputs, outputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.input[0], "name", "z"), r"has the inputs \['z'\]; the model has \['x'\]"),
        (lambda c: setattr(c.output[0], "data_type", pb.TYPE_INT32), "TYPE_INT32; the model as INT64"),
        (lambda c: c.output.add(name="more"), "has the outputs"),
        (lambda c: c.input[0].dims.append(1), r"the shape \[3, 4, 1\]; the model \[3, 4\]"),
        (lambda c: c.output[0].ClearField("reshape"), r"the shape \[1\]; the model \[\]"),
        (lambda c: c.input[0].dims.__setitem__(0, 0), "an axis that Triton does not know"),
        (lambda c: setattr(c, "platform", "onnxruntime_onnx"), "no platform"),
        (lambda c: setattr(c, "backend", ""), "the backend 'onnxruntime'"),
        (lambda c: setattr(c, "name", ""), "needs a name"),
        (lambda c: c.dynamic_batching.preferred_batch_size.append(9), "preferred batch sizes are"),
        (lambda c: setattr(c.instance_group[0], "count", 0), "instances is 0"),
        (lambda c: c.instance_group[0].gpus.append(0), "GPUs are chosen"),
        (lambda c: c.model_operations.op_library_filename.append("ops.so"), "absolute path"),
        (lambda c: setattr(c.model_warmup[0], "batch_size", 9), "a warm-up has 9 rows"),
        (lambda c: c.model_warmup[0].inputs["z"].dims.append(1), "a warm-up has the inputs"),
        (lambda c: c.model_warmup[0].inputs["x"].dims.__setitem__(0, 5), r"the shape \[5, 4\]"),
    ],
)
def test_a_wrong_message_is_refused(change: Any, message: str) -> None:
    config = usual()
    check(config, [X], [Y])
    change(config)
    with pytest.raises(DeployError, match=message):
        check(config, [X], [Y])


def test_a_fixed_first_axis_cannot_be_batched() -> None:
    fixed = TensorSpec("x", "FP32", (1, 3, 4))
    with pytest.raises(DeployError, match="fixed first axis"):
        check(usual(), [fixed], [Y])


@pytest.mark.parametrize("text", ['name: "m" colour: 3', "max_batch_size: many", "name: 'm' name: 'n'"])
def test_text_that_is_no_message(text: str) -> None:
    with pytest.raises(DeployError, match="no ModelConfig"):
        parse(text)


def test_as_json_like_triton_gives_it() -> None:
    found = config_json(usual(library="/l/ops.so", parameters={"a": "b"}))
    assert found["input"][0]["dims"] == [3, 4]  # protobuf's own JSON has strings for 64-bit numbers
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    assert found["model_warmup"][0]["inputs"]["x"]["dims"] == [3, 4]
    assert found["parameters"] == {"a": {"string_value": "b"}}
    assert found["instance_group"][0]["kind"] == "KIND_CPU"
    assert found["platform"] == ""
    assert found["batch_input"] == []
