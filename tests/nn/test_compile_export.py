"""torch.compile, torch.export and torch.func over the operator."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad
from torch.export import Dim

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES
from opau_onnx.nn import HP1, PAU, OrthogonalPade, orthogonal_pade
from tests.cases import SHARINGS, Case, case
from tests.nn.test_forward import as_inputs, errors
from tests.nn.test_gradients import exact_slope, gradients, leaves, sample

pytestmark = [  # torch's own, of its own code
    pytest.mark.filterwarnings("ignore:.torch.jit.script.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    yield
    torch.compiler.reset()


def assert_same_gradients(at: Case, function: Any, dtype: torch.dtype, tolerance: float) -> None:
    inputs = leaves(at, sample(at), dtype)
    g = torch.ones_like(inputs[0])
    found, want = (gradients(f, inputs, at.config, g) for f in (function, orthogonal_pade))
    for ours, right in zip(found, want, strict=True):
        torch.testing.assert_close(ours, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sharing", [SHARINGS[0], SHARINGS[5]], ids=lambda s: s.name)
def test_compiled_values_and_gradients(sharing: Any) -> None:
    """One graph without breaks; values within the oracle's bound, also far out, and the eager gradients."""
    at = case("hermite_e", "abs_terms", (5, 4), sharing)
    compiled = torch.compile(orthogonal_pade, fullgraph=True)
    x = as_inputs(at, torch.float32)
    inputs = leaves(at, x, torch.float32)
    y = compiled(*inputs, at.config)
    assert errors(at, x, y.detach()).max() <= 1.0
    assert_same_gradients(at, compiled, torch.float32, 1e-4)


def test_compiled_slope_far_out() -> None:
    at = case("laguerre", "abs_terms")
    x, c, d = leaves(at, torch.tensor([1e30, -1e30, 1e10]), torch.float32)
    torch.compile(orthogonal_pade, fullgraph=True)(x, c, d, at.config).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([exact_slope(at, v) for v in x.tolist()], rel=1e-4)
    assert torch.isfinite(c.grad).all()  # type: ignore[arg-type]


def test_compiled_module_with_dynamic_shapes() -> None:
    module = nn.Sequential(nn.Linear(6, 6), HP1(groups=3), PAU("C"))
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for rows in (2, 5, 33):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    module.zero_grad()
    compiled(x).sum().backward()
    found = [p.grad.clone() for p in module.parameters()]  # type: ignore[union-attr]
    module.zero_grad()
    module(x).sum().backward()
    for ours, p in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-3, atol=1e-3)


def test_aot_autograd_for_every_basis_and_form() -> None:
    """Tracing without code generation: the graphs of torch.compile, in eager operations."""
    for form, basis in zip([*FORMS, "abs_terms"], BASES, strict=True):
        at = case(basis, form, (3, 2))
        compiled = torch.compile(orthogonal_pade, fullgraph=True, backend="aot_eager")
        assert_same_gradients(at, compiled, torch.float64, 1e-8)
        torch.compiler.reset()


def test_compiled_graphs_hold_the_kernels() -> None:
    """One node each way, and nothing of the formula."""
    found: list[str] = []

    def record(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        found.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    compiled = torch.compile(HP1(), fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=record, bw_compiler=record))
    for size in (3, 8):
        compiled(torch.randn(size, requires_grad=True)).sum().backward()
    ours = [name for name in found if "opau" in name]
    assert ours == ["opau.orthogonal_pade_forward.default", "opau.orthogonal_pade_backward.default"]
    assert not any("div" in name for name in found)


@pytest.mark.parametrize("frozen", ["input", "coefficients"])
def test_compiled_gradients_of_part(frozen: str) -> None:
    module, x = HP1(groups=2), torch.randn(3, 4, 5, requires_grad=frozen != "input")
    module.requires_grad_(frozen != "coefficients")
    torch.compile(module, fullgraph=True)(x).sum().backward()
    found = [v.grad for v in (x, module.numerator, module.denominator)]
    for v in (x, module.numerator, module.denominator):
        v.grad = None
    module(x).sum().backward()
    for ours, v in zip(found, (x, module.numerator, module.denominator), strict=True):
        assert (ours is None) == (v.grad is None)
        if ours is not None:
            torch.testing.assert_close(ours, v.grad, rtol=0, atol=0)


def test_compiled_autograd() -> None:
    module, x = HP1(), torch.randn(9, requires_grad=True)
    (want,) = torch.autograd.grad(module(x).sum(), x)
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: module(x).sum().backward(), backend="aot_eager")()
    torch.testing.assert_close(x.grad, want)


def test_aot_inductor_gets_the_formula(tmp_path: Path) -> None:
    """A library that runs without Python may hold none of our operators."""
    module = HP1()
    program = torch.export.export(module, (torch.randn(7),), dynamic_shapes=({0: Dim.DYNAMIC},))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    x = torch.tensor([0.5, 1e30, -1e30, -2.0, 0.0])
    torch.testing.assert_close(torch._inductor.aoti_load_package(path)(x), module(x), rtol=1e-5, atol=1e-6)
    with zipfile.ZipFile(path) as package:
        assert not any(
            b"orthogonal_pade_forward" in package.read(name) for name in package.namelist() if name.endswith((".so", ".cpp"))
        )


def operators(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_export_keeps_one_node(strict: bool, grad: bool, tmp_path: Path) -> None:
    module = HP1(groups=2).requires_grad_(grad)
    x = torch.randn(3, 4, 5)
    program = torch.export.export(module, (x,), strict=strict)
    assert operators(program) == ["opau.orthogonal_pade.default"]
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    assert operators(loaded) == ["opau.orthogonal_pade.default"]
    torch.testing.assert_close(loaded.module()(x), module(x), rtol=1e-5, atol=1e-6)


def test_export_with_dynamic_shapes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), OrthogonalPade("legendre", (3, 2), groups=4), nn.Flatten(), PAU("N")).eval()
    dims = {"input": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    program = torch.export.export(module, (torch.randn(2, 3, 8, 9),), dynamic_shapes=dims)
    assert operators(program).count("opau.orthogonal_pade.default") == 2
    for shape in ((2, 3, 8, 9), (5, 3, 4, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-5)


def test_decomposed_program() -> None:
    """What a tool sees that does not know the operator: plain aten operations with the same values."""
    module = HP1()
    program = torch.export.export(module, (torch.randn(7),)).run_decompositions()
    assert not any("opau" in name for name in operators(program))
    x = torch.tensor([0.5, 1e30, -1e30, float("inf"), float("nan"), -2.0, 0.0])
    torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-6, equal_nan=True)


ELEMENTWISE = {
    "abs", "add", "sub", "mul", "div", "reciprocal", "clamp", "maximum", "where", "eq", "ne", "_to_copy", "scalar_tensor",
}  # fmt: skip
SHAPES = {"slice", "squeeze", "unsqueeze", "view"}
"""Of the coefficients, which are stored in one tensor, and of groups."""


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_decomposition_holds_what_converters_take(form: str, groups: int) -> None:
    """No cumsum, flip, slice_scatter or alias, which were there for what the coefficients decide."""
    module = OrthogonalPade("legendre", (5, 4), form, groups=groups).eval()
    x = torch.randn(3, 4) * 8
    program = torch.export.export(module, (x,)).run_decompositions()
    names = {str(n.target).split(".")[1] for n in program.graph.nodes if n.op == "call_function"}
    assert names <= ELEMENTWISE | SHAPES
    assert torch.allclose(program.module()(x), module(x), rtol=1e-5, atol=1e-6)


def test_export_of_bfloat16() -> None:
    program = torch.export.export(HP1(), (torch.randn(7).bfloat16(),))
    assert program.module()(torch.randn(7).bfloat16()).dtype == torch.bfloat16
    stream = io.BytesIO()
    torch.export.save(program, stream)


def test_vmap_and_grad() -> None:
    module = HP1(groups=2, axis=0)
    x = torch.randn(5, 4)
    rows = torch.stack([module(row) for row in x])
    torch.testing.assert_close(torch.vmap(module)(x), rows)
    leaf = x.clone().requires_grad_()
    torch.stack([module(row) for row in leaf]).sum().backward()
    per_row = torch.func.vmap(torch.func.grad(lambda row: module(row).sum()))(x)
    torch.testing.assert_close(per_row, leaf.grad)
    _, tangent = torch.func.jvp(module, (x[0],), (torch.ones(4),))
    torch.testing.assert_close(tangent, leaf.grad[0])  # type: ignore[index]


def test_other_ways_to_differentiate() -> None:
    """Many gradients at once, vectorised jacobians, and dual numbers."""
    module, x = HP1(), torch.randn(4, requires_grad=True)
    (slopes,) = torch.autograd.grad(module(x).sum(), x)
    (rows,) = torch.autograd.grad(module(x), x, torch.eye(4), is_grads_batched=True)
    torch.testing.assert_close(rows, slopes.diag())
    torch.testing.assert_close(torch.autograd.functional.jacobian(module, x, vectorize=True), slopes.diag())
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(module(forward_ad.make_dual(x.detach(), torch.ones(4)))).tangent
    torch.testing.assert_close(tangent, slopes)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("degrees", [(3, 0), (0, 2), (0, 0)])
def test_without_coefficients_in_the_denominator(degrees: tuple[int, int], groups: int) -> None:
    module, x = OrthogonalPade(degrees=degrees, groups=groups), torch.randn(3, 2, requires_grad=True)
    for run in (module, torch.compile(module, backend="aot_eager")):
        module.zero_grad()
        run(x).sum().backward()
        assert module.numerator.grad is not None
        assert module.numerator.grad.isfinite().all()
        used = module.denominator.numel() > 0
        if used:
            assert module.denominator.grad is not None
            assert module.denominator.grad.shape == module.denominator.shape
        assert isinstance(module.denominator, nn.Parameter) == used
    (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    slope.sum().backward()


def test_vmap_over_an_ensemble_of_coefficients() -> None:
    at = case("hermite", "abs_sum")
    x = torch.randn(6, dtype=torch.float64)
    c, d = torch.from_numpy(at.numerator), torch.from_numpy(at.denominator)
    many = torch.stack([c, 2 * c, -c])

    def run(top: Tensor) -> Tensor:
        return orthogonal_pade(x, top, d, at.config)

    torch.testing.assert_close(torch.vmap(run)(many), torch.stack([run(top) for top in many]))


def test_hessian() -> None:
    at = case("hermite_e", "abs_terms", (3, 2))
    x, c, d = (v.detach() for v in leaves(at, sample(at, 3)))

    def total(top: Tensor) -> Tensor:
        return orthogonal_pade(x, top, d, at.config).square().sum()

    found = torch.func.hessian(total)(c)
    rows = orthogonal_pade(x.expand(4, 3).clone(), torch.eye(4, dtype=torch.float64)[0], d, at.config)
    assert found.shape == (4, 4)
    torch.testing.assert_close(found, torch.autograd.functional.hessian(total, c))
    assert rows.shape == (4, 3)
