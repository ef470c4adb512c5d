"""``freeze``: the bits of the evaluation plans, and everything that takes PyTorch models takes what it makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opau_onnx import load, models
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.frozen import Frozen, trim
from opau_onnx.core.numpy_ops import NumpyOps
from opau_onnx.core.plan_search import choose, error, hard_inputs
from opau_onnx.core.plans import plans
from opau_onnx.core.recording import record
from opau_onnx.core.spec import BASES, Config
from opau_onnx.errors import ReplacementError, SpecError
from opau_onnx.graph.operators import Constants, Value, Writer
from opau_onnx.io import datasets
from opau_onnx.nn import HP1, HP2, FrozenActivation, OrthogonalPade, freeze
from tests.export import single

CONFIGS = [Config(basis, form) for basis in BASES for form in FORMS]
CONFIGS += [Config(degrees=d) for d in ((4, 4), (4, 5), (3, 0), (0, 0), (10, 9))]


def activation(config: Config, dtype: str = "float32", own: tuple[bool, bool] = (False, False)) -> OrthogonalPade:
    case = single.Case(config, dtype, per_group=own)
    c, d = (torch.as_tensor(v.astype(case.compute)) for v in single.coefficients(case))
    return OrthogonalPade.from_coefficients(c, d, config).eval()


def as_frozen(module: OrthogonalPade) -> Frozen:
    values = [v.detach().double().numpy() for v in (module.numerator, module.denominator)]
    return trim(Frozen(module.config, values[0], values[1], str(module.numerator.dtype).removeprefix("torch.")))


def same(a: Any, b: Any) -> bool:
    """Equal bits, whatever the payload of a NaN."""
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a)[a == a], np.signbit(b)[b == b])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_bits_of_the_chosen_plan(config: Config) -> None:
    """Also on all magnitudes, ±0, ±inf and NaN; and the plan is within the oracle's bound."""
    module = activation(config)
    frozen = as_frozen(module)
    plan, x = choose(frozen), hard_inputs(frozen)
    with np.errstate(all="ignore"):
        known = np.broadcast_to(plan.evaluate(NumpyOps(), frozen, x), x.shape)
    assert same(freeze(module)(torch.from_numpy(x)).numpy(), known)
    assert error(frozen, plan) <= 1.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("axis", "own"), [(1, (True, True)), (-1, (True, False)), (2, (False, True)), (1, (False, False))])
def test_groups_on_any_axis(axis: int, own: tuple[bool, bool], dtype: str) -> None:
    module = activation(Config(groups=3, axis=axis), dtype, own)
    x = torch.randn(2, 6, 3, 9, dtype=getattr(torch, dtype)) * 3
    tight = 1e-5 if dtype == "float32" else 1e-13
    torch.testing.assert_close(freeze(module)(x), module(x), atol=tight, rtol=tight)
    assert freeze(module)(x[:0]).shape == x[:0].shape


@pytest.mark.parametrize("config", [Config(), Config("legendre", "abs_sum"), Config(degrees=(0, 0)), Config(groups=2)], ids=str)
def test_what_is_recorded_is_what_onnx_files_hold(config: Config) -> None:
    """Operator for operator, for every plan."""
    import onnx_ir as ir

    frozen = as_frozen(activation(config, own=(True, True) if config.groups > 1 else (False, False)))
    names = {
        "add": ["Add"], "sub": ["Sub"], "mul": ["Mul"], "divide": ["Div"], "abs": ["Abs"], "maximum": ["Max"],
        "clamp": ["Clip"], "nonzero": ["Cast"], "where": ["Where"],
    }  # fmt: skip
    for plan in plans(frozen):
        graph = ir.Graph([ir.Value(name="x")], [], nodes=[])
        writer = Writer(Constants(graph), frozen.compute, lambda array: array)
        plan.evaluate(writer, frozen, Value(writer, graph.inputs[0]))
        assert [n.op_type for n in writer.nodes] == [t for s in record(plan, frozen).steps for t in names[s.operation]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    module = activation(Config(groups=2), own=(True, True))
    x = (torch.randn(3, 4, 5) * 3).to(dtype)
    frozen = freeze(module).to(dtype)
    assert {b.dtype for b in frozen.buffers()} == {torch.float32}
    assert torch.equal(frozen(x), freeze(module)(x.float()).to(dtype))


def test_the_gradient_by_the_input() -> None:
    x = torch.linspace(-4, 4, 401, dtype=torch.float64, requires_grad=True)
    module = HP1(dtype=torch.float64)
    given = [torch.autograd.grad(m(x).sum(), x)[0] for m in (module, freeze(module))]
    torch.testing.assert_close(given[0], given[1], atol=1e-12, rtol=1e-12)


class Twice(nn.Module):
    """One activation at two places, and another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = HP1()
        self.again = self.first
        self.last = nn.Sequential(nn.Linear(4, 4), HP2())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.again(self.first(x) * 2))


def test_the_copy_and_the_original() -> None:
    model = Twice().train()
    frozen = freeze(model)
    assert frozen.first is frozen.again
    assert isinstance(frozen.first, FrozenActivation)
    assert isinstance(model.first, HP1)
    assert frozen.training
    assert {n for n, _ in frozen.named_parameters()} == {"last.0.weight", "last.0.bias"}
    assert torch.equal(frozen.last[0].weight, model.last[0].weight)
    with torch.no_grad():
        model.first.numerator.zero_()
    assert freeze(HP1())(torch.ones(1)) == frozen.first(torch.ones(1)) != 0


class Own(HP1):
    """A subclass with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def hooked() -> nn.Module:
    module = HP1()
    module.register_forward_hook(lambda *_: None)
    return module


def spoiled() -> nn.Module:
    module = HP1()
    with torch.no_grad():
        module.denominator[1] = torch.nan
    return module


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: nn.Sequential(nn.ReLU()), ReplacementError, "holds no OrthogonalPade"),
        (lambda: nn.Sequential(Own()), ReplacementError, "0 is a Own, whose forward is not ours"),
        (hooked, ReplacementError, "HP1 has hooks"),
        (spoiled, SpecError, "NaN or infinity"),
        (lambda: HP1(device="meta"), SpecError, "meta device"),
        (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())), ReplacementError, "before exporting"),
    ],
)
def test_what_cannot_be_frozen(make: Callable[[], nn.Module], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        freeze(make())


@pytest.mark.parametrize("x", [torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)])
def test_inputs_that_would_lose_digits_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="float64 only where the model was float64"):
        freeze(HP1())(x)


# What takes PyTorch models, on the shipped LeNet and real images.


@pytest.fixture(scope="module")
def lenet() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The frozen model, the images that ship, and the outputs of the model that it was made from."""
    model = load(models.path("lenet_hp1")).model
    images = torch.from_numpy(datasets.preprocess(datasets.load_sample()[0]))
    with torch.no_grad():
        return freeze(model), images, model(images)


def check(found: Any, known: torch.Tensor) -> None:
    found = torch.as_tensor(found)
    assert (found - known).abs().max() <= 2e-5
    assert torch.equal(found.argmax(1), known.argmax(1))


def old(function: Callable[..., Any], *arguments: Any) -> Any:
    """torch.jit's functions warn that they are old."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        return function(*arguments)


def test_eager_traced_and_scripted(lenet: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, images, known = lenet
    with torch.no_grad():
        check(model(images), known)
        check(old(torch.jit.trace, model, images[:2])(images), known)
        scripted = old(torch.jit.script, model)
        check(scripted(images), known)
    assert "opau::" not in str(scripted.inlined_graph)


def test_script_with_groups() -> None:
    module = activation(Config(groups=3), own=(True, True))
    scripted, x = old(torch.jit.script, freeze(module)), torch.randn(2, 6, 5)
    torch.testing.assert_close(scripted(x), module(x), atol=1e-5, rtol=1e-5)


def exported(model: nn.Module, images: torch.Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},))


def test_exported_with_plain_operators(lenet: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, images, known = lenet
    program = exported(model, images)
    check(program.module()(images).detach(), known)
    operators = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert operators == {
        "aten.abs.default", "aten.add.Tensor", "aten.clamp.default", "aten.conv2d.default", "aten.div.Tensor",
        "aten.flatten.using_ints", "aten.linear.default", "aten.max_pool2d.default", "aten.mul.Tensor", "aten.sub.Tensor",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["module", "traced", "program"])
def test_openvino(kind: str, lenet: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    from opau_onnx.compare.runtimes.openvino import openvino_core

    model, images, known = lenet
    given = {
        "module": lambda: openvino.convert_model(model, example_input=images[:2]),
        "traced": lambda: openvino.convert_model(old(torch.jit.trace, model, images[:2])),
        "program": lambda: openvino.convert_model(exported(model, images)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own use of old interfaces
        converted = given[kind]()
    compiled = openvino_core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    check(compiled(images.numpy())[0].copy(), known)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script.* is deprecated:DeprecationWarning")  # when inductor is imported
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
def test_aot_inductor(lenet: tuple[nn.Module, torch.Tensor, torch.Tensor], tmp_path: Any) -> None:
    model, images, known = lenet
    path = torch._inductor.aoti_compile_and_package(exported(model, images), package_path=str(tmp_path / "lenet.pt2"))
    check(torch._inductor.aoti_load_package(path)(images), known)
