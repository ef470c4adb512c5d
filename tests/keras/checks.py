"""Checks of the Keras layer on the backend that runs; started by test_backends.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import opau_onnx
from opau_onnx.core import oracle
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES
from opau_onnx.errors import ExportError, SpecError
from opau_onnx.keras import OrthogonalPade, evaluate, from_torch, to_torch, to_torch_model
from opau_onnx.nn import OrthogonalPade as TorchOrthogonalPade
from opau_onnx.nn import orthogonal_pade
from tests.cases import SAFE, SHARINGS, Array, Case, case
from tests.nn.test_forward import as_inputs, errors
from tests.nn.test_gradients import sample

BACKEND = keras.backend.backend()
FOLDER = Path(os.environ["OPAU_KERAS_FOLDER"])
WIDE = ("float32", "float64") if BACKEND == "jax" else ("float32",)
"""What keras.ops compute in. Elsewhere they take float64 for float32, but on torch the layer calls PyTorch's operator."""
DTYPE = WIDE[-1]
EXACT = 1e-9 if DTYPE == "float64" else 2e-4

PAIRS = list(zip(BASES, [*FORMS, "abs_terms"], strict=True))
"""Every basis and every form: what lies below, evaluation.py and gradient.py, is tested with all combinations elsewhere."""
VALUES = [case(b, f) for b, f in PAIRS] + [case("laguerre", "abs_sum", (16, 16))]
VALUES += [case("power", "pau_c", d) for d in ((0, 0), (0, 1))]
GROUPED = [case(b, f, (3, 2), s) for (b, f), s in zip(PAIRS, SHARINGS[1:], strict=True)][::2]


def tensors(at: Case, x: Any, dtype: str) -> tuple[Any, Any, Any]:
    return tuple(ops.convert_to_tensor(np.asarray(v), dtype=dtype) for v in (x, at.numerator, at.denominator))  # type: ignore[return-value]


def tensor(value: Array) -> Any:
    """Of the array's own dtype: Keras takes float64 for its default one."""
    return ops.convert_to_tensor(value, dtype=str(value.dtype))


def as_torch(value: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(ops.convert_to_numpy(value)))


@pytest.mark.parametrize(
    ("at", "dtype"), [(c, "float32") for c in (*VALUES, *GROUPED)] + [(VALUES[i], WIDE[-1]) for i in (0, 7)], ids=str
)
def test_values(at: Case, dtype: str) -> None:
    """Within the oracle's bound on inputs of all magnitudes; the formula over keras.ops, whatever the layer calls."""
    x = as_inputs(at, getattr(torch, dtype))
    y = as_torch(evaluate.orthogonal_pade(*tensors(at, x.numpy(), dtype), at.config))
    if BACKEND == "jax":  # XLA takes subnormal numbers for zero
        info = torch.finfo(x.dtype)
        exact = torch.from_numpy(oracle.evaluate(at.config, x.numpy(), at.numerator, at.denominator).value)
        y = torch.where((exact.abs() < 2 * info.smallest_normal) & (y == 0), exact.to(x.dtype), y)
    assert errors(at, x, y).max(initial=0.0) <= 1.0


@pytest.mark.parametrize("basis", BASES)
def test_far_out_infinite_and_nan(basis: str) -> None:
    values = np.array([1e30, -1e30, 3e38, -3e38, np.inf, -np.inf, np.nan], dtype=np.float32)
    for form in SAFE:
        for degrees in ((5, 4), (4, 4), (4, 5), (16, 15), (0, 0)):
            at = case(basis, form, degrees)
            layer = layer_of(at)
            with np.errstate(over="ignore"):
                want = oracle.evaluate(at.config, values, at.numerator, at.denominator).value.astype(np.float32)
            for y in (evaluate.orthogonal_pade(*tensors(at, values, "float32"), at.config), layer(values)):
                np.testing.assert_allclose(ops.convert_to_numpy(y), want, rtol=2e-5, atol=np.finfo(np.float32).tiny)


def layer_of(at: Case, **options: Any) -> Any:
    """The layer with a case's coefficients."""
    c = at.config
    layer = OrthogonalPade(
        c.basis, c.degrees, c.form, groups=c.groups, axis=c.axis, init=None,
        shared_numerator=c.groups > 1 and at.numerator.ndim == 1,
        shared_denominator=c.groups > 1 and at.denominator.ndim == 1, **options,
    )  # fmt: skip
    layer.build(at.shape)
    layer.set_weights([at.numerator, at.denominator])
    return layer


# -- gradients


def gradients(function: Any, values: tuple[Any, ...], g: Any) -> list[Array]:
    """Of sum(g * function(x, c, d)), by the backend's own automatic differentiation."""
    if BACKEND == "jax":
        import jax

        return [np.asarray(v) for v in jax.vjp(function, *values)[1](g)]
    leaves = [v.detach().clone().requires_grad_() for v in values]
    found = torch.autograd.grad(function(*leaves), leaves, g, allow_unused=True)
    return [np.zeros(v.shape) if f is None else f.numpy() for f, v in zip(found, leaves, strict=True)]


def torch_gradients(at: Case, x: Array, g: Array, dtype: torch.dtype) -> list[Array]:
    """Those of the PyTorch module."""
    c, d = (torch.tensor(v, dtype=dtype) for v in (at.numerator, at.denominator))
    module, leaf = TorchOrthogonalPade.from_coefficients(c, d, at.config), torch.tensor(x, dtype=dtype, requires_grad=True)
    module(leaf).backward(torch.tensor(g, dtype=dtype))
    return [np.zeros(v.shape) if v.grad is None else v.grad.numpy() for v in (leaf, module.numerator, module.denominator)]


@pytest.mark.parametrize("at", [*(case(b, f) for b, f in PAIRS), case("power", "abs_terms", (0, 0)), *GROUPED], ids=str)
def test_gradients_equal_the_module_s(at: Case) -> None:
    x = (sample(at, 200) if at.config.groups == 1 else sample(at)).numpy()
    g = np.random.default_rng(1).standard_normal(x.shape)
    values = tensors(at, x, DTYPE)
    ours = gradients(lambda *v: evaluate.orthogonal_pade(*v, at.config), values, tensor(g.astype(DTYPE)))
    for got, want in zip(ours, torch_gradients(at, x, g, torch.float64), strict=True):
        np.testing.assert_allclose(got, want, rtol=EXACT, atol=EXACT * float(np.abs(want).max(initial=0.0)))


@pytest.mark.parametrize("at", [case(b, f) for b, f in PAIRS], ids=str)
def test_gradients_are_the_oracle_s_differences(at: Case) -> None:
    x = sample(at, 50).numpy()
    g = np.random.default_rng(2).standard_normal(x.shape)
    values = tensors(at, x, DTYPE)
    ours = gradients(lambda *v: evaluate.orthogonal_pade(*v, at.config), values, tensor(g.astype(DTYPE)))
    arguments = [x, at.numerator, at.denominator]

    def total(i: int, change: Array) -> Array:
        moved = [v + change if j == i else v for j, v in enumerate(arguments)]
        return g * oracle.evaluate(at.config, *moved).value

    h = 1e-6
    slope = (total(0, np.full_like(x, h)) - total(0, np.full_like(x, -h))) / (2 * h)
    allowed = max(EXACT, 1e-6)
    np.testing.assert_allclose(ours[0], slope, rtol=1e-5, atol=allowed * np.abs(slope).max())
    for i in (1, 2):
        steps = np.eye(arguments[i].size) * h
        want = [(total(i, s) - total(i, -s)).sum() / (2 * h) for s in steps]
        np.testing.assert_allclose(ours[i], want, rtol=1e-5, atol=allowed * np.abs(want).max())


@pytest.mark.parametrize("at", [case(b, f) for b, f in zip(BASES, SAFE * 3, strict=False)], ids=str)
def test_gradients_far_out(at: Case) -> None:
    """Finite and right at 1e30 in float32, where automatic ones of the same formula are not."""
    g = np.ones(1, dtype=np.float32)
    for x in (1e6, -1e6, 1e30, -1e30):  # one by one: in a sum they may cancel
        inputs = np.array([x], dtype=np.float32)
        values = tensors(at, inputs, "float32")
        ours = gradients(lambda *v: evaluate.orthogonal_pade(*v, at.config), values, tensor(g))
        for got, want in zip(ours, torch_gradients(at, inputs, g, torch.float64), strict=True):
            assert np.isfinite(got).all()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * float(np.abs(want).max()))
    automatic = gradients(lambda *v: evaluate.forward(at.config, *v), values, tensor(g))[0]
    assert not np.allclose(automatic, ours[0], rtol=0.5)


def test_gradients_through_the_layer() -> None:
    at = case("hermite_e", "abs_terms", (5, 4), SHARINGS[1])
    layer = layer_of(at)
    x = sample(at).float().numpy()
    want = torch_gradients(at, x, np.ones_like(x), torch.float32)
    if BACKEND == "jax":
        import jax

        def total(weights: Any, x: Any) -> Any:
            return ops.sum(layer.stateless_call(weights, [], x)[0])

        weights, dx = jax.grad(total, argnums=(0, 1))([v.value for v in layer.trainable_variables], x)
        found = [dx, *weights]
    else:
        leaf = torch.tensor(x, requires_grad=True)
        layer(leaf).sum().backward()
        found = [leaf.grad, *(v.value.grad for v in layer.trainable_variables)]
    for got, right in zip(found, want, strict=True):
        np.testing.assert_allclose(np.asarray(got), right, rtol=1e-4, atol=1e-4 * np.abs(right).max())


# -- the layer


def test_the_start_is_the_module_s() -> None:
    layer, module = OrthogonalPade("chebyshev", (4, 3), "abs_sum", init="gelu"), None
    layer.build((None, 3))
    module = TorchOrthogonalPade("chebyshev", (4, 3), "abs_sum", init="gelu")
    np.testing.assert_array_equal(layer.get_weights()[0], module.numerator.detach().numpy())
    np.testing.assert_array_equal(layer.get_weights()[1], module.denominator.detach().numpy())


@pytest.mark.parametrize("sharing", SHARINGS, ids=lambda s: s.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(sharing: Any, dtype: str) -> None:
    """The same bits, and the same function on a tensor of the same layout."""
    at = case("legendre", "pau_c", (5, 4), sharing)
    kind = getattr(torch, dtype)
    c, d = (torch.tensor(v / 3, dtype=kind) for v in (at.numerator, at.denominator))
    module = TorchOrthogonalPade.from_coefficients(c, d, at.config)
    layer = from_torch(module, name="act")
    back = to_torch(layer)
    assert (layer.name, back.config) == ("act", at.config)
    assert torch.equal(back.numerator, module.numerator)
    assert torch.equal(back.denominator, module.denominator)
    x = torch.randn(at.shape, dtype=kind, generator=torch.Generator().manual_seed(0))
    y = as_torch(layer(x.numpy()))
    assert y.dtype == kind
    torch.testing.assert_close(y, module(x).detach(), rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-6)


def test_another_axis() -> None:
    """Channels first in PyTorch, last in Keras."""
    at = case("hermite", "abs_terms", (5, 4), SHARINGS[1])
    module = TorchOrthogonalPade.from_coefficients(at.numerator, at.denominator, at.config, dtype=torch.float32)
    layer = from_torch(module, axis=-1)
    x = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    y = as_torch(layer(x.permute(0, 2, 3, 1).contiguous().numpy())).permute(0, 3, 1, 2)
    torch.testing.assert_close(y, module(x).detach(), rtol=1e-5, atol=1e-6)
    assert to_torch(layer, axis=1).config == at.config
    with pytest.raises(ValueError, match="no coefficients yet"):
        to_torch(OrthogonalPade())


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_float16", "float16"), ("bfloat16", "bfloat16"), ("float64", "float64")])
def test_dtypes(policy: str, dtype: str) -> None:
    """Coefficients of 32 bits at least, computed in these; the output has the policy's dtype."""
    layer = OrthogonalPade(dtype=policy)
    x = ops.convert_to_tensor(np.linspace(-3, 3, 25), dtype=dtype)
    y = layer(x)
    wide = "float64" if policy == "float64" else "float32"
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert {v.dtype for v in layer.weights} == {wide}
    at = Case(layer.config, *(v.astype(np.float64) for v in layer.get_weights()))
    inputs, outputs = (as_torch(ops.cast(v, wide)).to(getattr(torch, dtype)) for v in (x, y))
    assert errors(at, inputs, outputs).max() <= 1.0


def small_model() -> Any:
    inputs = layers.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = OrthogonalPade(groups=2, name="act")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.5)(layers.Dense(8, name="dense")(x))
    x = OrthogonalPade("legendre", (4, 4), "abs_sum", init="gelu", name="last")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="small")


def batch(count: int) -> Array:
    return np.random.default_rng(0).standard_normal((count, 6, 6, 2)).astype(np.float32)


def test_symbolic_shapes_and_configurations() -> None:
    model = small_model()
    assert model.get_layer("act").output.shape == (None, 4, 4, 4)
    layer = model.get_layer("act")
    again = OrthogonalPade.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert OrthogonalPade(init=np.tanh).get_config()["init"] is None
    with pytest.raises(SpecError, match="needs to know the size"):
        OrthogonalPade(groups=2)(layers.Input((None,)))
    with pytest.raises(SpecError, match="which 3 groups do not divide"):
        OrthogonalPade(groups=3)(layers.Input((4,)))
    with pytest.raises(SpecError, match="unknown target 'rely'"):
        OrthogonalPade(init="rely")
    with pytest.raises(SpecError, match="degrees"):
        OrthogonalPade(degrees=(17, 1))


def test_training_saving_loading() -> None:
    """Fitting moves the coefficients; the file gives the same model without being told our class."""
    keras.utils.set_random_seed(0)
    model = small_model()
    before = model.get_layer("act").get_weights()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = batch(64), np.random.default_rng(1).integers(0, 3, 64)
    history = model.fit(x, y, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < history[0]
    after = model.get_layer("act").get_weights()
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(after, before, strict=True))
    path = FOLDER / f"{BACKEND}.keras"
    model.save(path)
    want = model.predict(x, verbose=0)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), want, rtol=1e-6, atol=1e-7)
    weights = FOLDER / f"{BACKEND}.weights.h5"
    model.save_weights(weights)
    other = small_model()
    other.load_weights(weights)
    np.testing.assert_allclose(other.predict(x, verbose=0), want, rtol=1e-6, atol=1e-7)
    if BACKEND == "jax":
        model.save(FOLDER / "trained.keras")
        np.savez(FOLDER / "trained.npz", x=x, y=want)


def test_saved_weights_say_their_function() -> None:
    """Those of another basis are refused; those that say none load with a warning."""

    def made(basis: str) -> Any:
        return keras.Sequential([layers.Input((4,)), layers.Dense(3), OrthogonalPade(basis, name="act")])

    weights = FOLDER / f"{BACKEND}_act.weights.h5"
    made("hermite").save_weights(weights)
    made("hermite").load_weights(weights)
    with pytest.raises(ValueError, match=r"the saved coefficients are of hermite, .* computes hermite_e"):
        made("hermite_e").load_weights(weights)
    store: dict[str, Any] = {}
    layer = made("hermite").get_layer("act")
    layer.save_own_variables(store)
    del store["configuration"]
    with pytest.warns(UserWarning, match="act: the weights do not say which function .* hermite, abs_terms"):
        layer.load_own_variables(store)


def test_jit_vmap_and_masks() -> None:
    at = case("hermite_e", "abs_terms")
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    layer = layer_of(at)
    assert layer.supports_masking
    if BACKEND == "jax":
        import jax

        values = tensors(at, x, "float32")
        want = evaluate.orthogonal_pade(*values, at.config)
        function = jax.vmap(jax.jit(lambda x: evaluate.orthogonal_pade(x, *values[1:], at.config)))
        np.testing.assert_allclose(np.asarray(function(values[0])), np.asarray(want), rtol=1e-5, atol=1e-6)
    else:  # the layer takes the operator of opau_onnx.nn, which a traced graph keeps as one node
        wide = [torch.tensor(v, dtype=torch.float32) for v in (at.numerator, at.denominator)]
        assert torch.equal(layer(torch.tensor(x)), orthogonal_pade(torch.tensor(x), *wide, at.config))


# -- export


def only(backend: str) -> None:
    if backend != BACKEND:
        pytest.skip(f"a matter of the {backend} backend")


def test_export_elsewhere_says_what_to_do() -> None:
    only("jax")
    with pytest.raises(ExportError, match=r"Keras runs on jax here.*model.save.*KERAS_BACKEND=torch"):
        opau_onnx.export_model(small_model(), FOLDER / "no.onnx", torch.zeros(1, 6, 6, 2))
    assert not (FOLDER / "no.onnx").exists()


def exported(model: Any, *inputs: torch.Tensor, **options: Any) -> Any:
    result = opau_onnx.export_model(model, FOLDER / "net.onnx", inputs, **options)
    assert result.equal, result.as_dict()
    return result


def run(path: Path, **inputs: Array) -> Array:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def test_export_of_what_jax_trained() -> None:
    """With its own outputs."""
    only("torch")
    if not (FOLDER / "trained.keras").is_file():
        pytest.skip("JAX has written no trained.keras")
    model = keras.saving.load_model(FOLDER / "trained.keras")
    data = np.load(FOLDER / "trained.npz")
    result = exported(model, torch.from_numpy(data["x"][:4]))
    assert [a["node"] for a in result.activations] == ["act/OrthogonalPade", "last/OrthogonalPade"]
    assert [a["groups"] for a in result.activations] == [2, 1]
    assert [c.coefficients for c in result.validation.activations] == ["equal", "equal"]
    np.testing.assert_allclose(run(result.path, image=data["x"]), data["y"], rtol=1e-4, atol=1e-6)


def test_export_of_every_kind_of_model() -> None:
    only("torch")
    x = torch.from_numpy(batch(2))
    nested = [layers.Input((6, 6, 2)), layers.Conv2D(4, 3), OrthogonalPade(), layers.Flatten(), small_head()]
    assert len(exported(keras.Sequential(nested), x).activations) == 2
    half = exported(small_model(), x, dtype="float16")
    assert half.dtype == "float16"
    left, right = layers.Input((4,), name="left"), layers.Input((4,), name="right")
    shared = OrthogonalPade(name="shared")
    two = keras.Model([left, right], layers.Add()([shared(layers.Dense(4)(left)), shared(right)]))
    result = exported(two, torch.randn(2, 4), torch.randn(2, 4))
    a, b = (np.random.default_rng(i).standard_normal((5, 4)).astype(np.float32) for i in range(2))
    want = ops.convert_to_numpy(two([a, b]))
    np.testing.assert_allclose(run(result.path, left=a, right=b), want, rtol=1e-5, atol=1e-6)
    assert {a["numerator"] for a in result.activations} == {"shared.numerator"}


def small_head() -> Any:
    return keras.Sequential([layers.Dense(3), OrthogonalPade("hermite")])


def test_export_of_a_subclassed_model() -> None:
    only("torch")

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = layers.Dense(8), OrthogonalPade(groups=4), layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.last(self.act(self.first(x)))

    net = Net()
    with pytest.raises(ExportError, match="no weights yet"):
        to_torch_model(net)
    x = torch.randn(3, 5)
    want = net(x).detach()
    module = to_torch_model(net)
    assert module.keras.model is net
    torch.testing.assert_close(module(x).detach(), want)
    before = [v.dtype for v in net.variables]
    torch.testing.assert_close(module.double()(x.double()).float().detach(), want, rtol=1e-5, atol=1e-6)
    assert [v.dtype for v in net.variables] == before
    assert net.act.dtype_policy.name == "float32"
    assert len(exported(net, x).activations) == 1
    assert net.act.config == to_torch(net.act).config
