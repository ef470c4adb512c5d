"""A state_dict says which function its coefficients belong to, whatever saves, shards, averages or casts it."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from opau_onnx.core import state
from opau_onnx.core.spec import Config
from opau_onnx.errors import SpecError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade
from opau_onnx.nn.loading import AssumedConfigWarning

KEY = "1._extra_state"


def net(act: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), HP1() if act is None else act, nn.Linear(6, 2))


def changed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    return model


@pytest.mark.parametrize(
    "config", [Config(), Config("chebyshev_u", "abs_terms", (16, 16), 12345, -1), Config("power", "free", (0, 0))]
)
def test_packing(config: Config) -> None:
    packed = state.pack(config)
    assert packed.shape == (state.SIZE,)
    for dtype in (np.uint8, np.float16, np.float32, np.int64):
        assert state.unpack(packed.astype(dtype)) == config
    averaged = 0.999 * packed.astype(np.float64) + 0.001 * packed
    assert state.unpack(averaged - 1e-9) == config
    assert state.unpack(torch.from_numpy(packed).bfloat16().float().numpy()) == config


@pytest.mark.parametrize("values", [np.zeros(128), np.full(3, 300.0), np.full(128, np.nan), "HP1", b"x", {"basis": 1}, None])
def test_what_is_no_configuration(values: Any) -> None:
    with pytest.raises(SpecError, match="configuration of an activation cannot be read"):
        state.unpack(values)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("saved", "into", "said"),
    [
        (HP2(), HP1(), r"1: the saved .* are of hermite, abs_terms, .* computes hermite_e, .*OrthogonalPade\(\"hermite\""),
        (PAU("A"), PAU("B"), "are of power, abs_terms, .* computes power, abs_sum"),
        (PAU("A"), PAU("N"), "computes power, plain"),
        (HP1(degrees=(3, 2)), HP1(), r"degrees \(3, 2\)"),
        (HP1(groups=3), HP1(groups=3, axis=-1), "axis 1; this module .* axis -1"),
    ],
)  # fmt: skip
def test_another_functions_coefficients_are_refused(saved: nn.Module, into: nn.Module, said: str, strict: bool) -> None:
    target = net(into)
    before = copy.deepcopy(target[1].state_dict())
    with pytest.raises(RuntimeError, match=said):
        target.load_state_dict(net(saved).state_dict(), strict=strict)
    assert all(torch.equal(v, before[k]) for k, v in target[1].state_dict().items())


def test_version_d_computes_what_b_does() -> None:
    assert not PAU("D").load_state_dict(PAU("B").state_dict()).missing_keys


def test_states_without_it_load_with_a_warning() -> None:
    old = {k: v for k, v in changed(net()).state_dict().items() if k != KEY}
    target = net()
    with pytest.warns(AssumedConfigWarning, match=r"does not say .* assumed is .*: hermite_e, abs_terms, degrees \(5, 4\)"):
        assert target.load_state_dict(old) == ([], [])
    assert torch.equal(target[1].numerator, old["1.numerator"])
    with warnings.catch_warnings():  # nothing of ours is in it, so nothing is assumed
        warnings.simplefilter("error")
        found = target.load_state_dict({k: v for k, v in old.items() if not k.startswith("1.")}, strict=False)
    assert found.missing_keys == ["1.numerator", "1.denominator"]
    with pytest.warns(AssumedConfigWarning), pytest.raises(RuntimeError, match="Missing key"):
        target.load_state_dict({k: v for k, v in old.items() if k != "1.numerator"})


def test_files(tmp_path: Path) -> None:
    first = changed(net())
    save_file(first.state_dict(), tmp_path / "m.safetensors")
    torch.save(first.state_dict(), tmp_path / "m.pt")
    for content in (load_file(tmp_path / "m.safetensors"), torch.load(tmp_path / "m.pt", weights_only=True)):
        second = net()
        second.load_state_dict(content)
        assert torch.equal(second[1].numerator, first[1].numerator)
        with pytest.raises(RuntimeError, match="are of hermite_e"):
            net(HP2()).load_state_dict(content)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "cpu"])
def test_states_that_were_cast(cast: str) -> None:
    content = {k: getattr(v, cast)() for k, v in net().state_dict().items()}
    net().load_state_dict(content)
    with pytest.raises(RuntimeError, match="are of hermite_e"):
        net(HP2()).load_state_dict(content)


def test_averages_of_states() -> None:
    model = changed(net())
    average = {k: v.clone().float() for k, v in model.state_dict().items()}
    for _ in range(50):
        for k, v in model.state_dict().items():
            average[k].mul_(0.99).add_(v, alpha=0.01)
    net().load_state_dict(average)
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    averaged.update_parameters(model)
    copied = torch.optim.swa_utils.AveragedModel(net())
    copied.load_state_dict(averaged.state_dict())
    for ema, own in zip(copied.module.state_dict().values(), model.state_dict().values(), strict=True):
        ema.copy_(0.5 * ema + 0.5 * own)  # as timm's ModelEma does


def test_compiled_and_parallel_modules() -> None:
    model = net()
    compiled = torch.compile(model, backend="eager")
    assert "_orig_mod." + KEY in compiled.state_dict()
    compiled.load_state_dict(compiled.state_dict())
    parallel = nn.DataParallel(model)
    parallel.load_state_dict(parallel.state_dict())
    with pytest.raises(RuntimeError, match=r"module\.1: the saved coefficients are of hermite_e"):
        nn.DataParallel(net(HP2())).load_state_dict(parallel.state_dict())


def test_meta_and_assign() -> None:
    content = changed(net()).state_dict()
    with torch.device("meta"):
        model = net()
    assert model.state_dict()[KEY].device.type == "cpu"
    model.load_state_dict(content, assign=True)
    assert torch.equal(model[1].numerator, content["1.numerator"])


def test_functional_call_takes_a_state_dict() -> None:
    model, x = changed(net()), torch.randn(3, 4)
    parameters = {k: v for k, v in model.state_dict().items() if k != KEY}
    assert torch.equal(torch.func.functional_call(net(), parameters, (x,)), model(x))
    assert torch.equal(torch.func.functional_call(net(), model.state_dict(), (x,)), model(x))


def test_exported_programs(tmp_path: Path) -> None:
    model, x = changed(net()).eval(), torch.randn(3, 4)
    program = torch.export.export(model, (x,))
    torch.export.save(program, tmp_path / "m.pt2")
    assert torch.allclose(torch.export.load(tmp_path / "m.pt2").module()(x), model(x))


def test_pickled_modules_and_copies() -> None:
    stream = io.BytesIO()
    torch.save(net(), stream)
    stream.seek(0)
    again = torch.load(stream, weights_only=False)
    again.load_state_dict(copy.deepcopy(net()).state_dict())


def test_parametrized_coefficients() -> None:
    class Positive(nn.Module):
        def forward(self, d: Tensor) -> Tensor:
            return nn.functional.softplus(d)

    def made(act: nn.Module) -> nn.Module:
        nn.utils.parametrize.register_parametrization(act, "denominator", Positive())
        return net(act)

    content = changed(made(HP1())).state_dict()
    target = made(HP1())
    target.load_state_dict(content)
    assert torch.equal(target[1].denominator, made_from(content))
    with pytest.raises(RuntimeError, match="are of hermite_e"):
        made(HP2()).load_state_dict(content)
    with pytest.warns(AssumedConfigWarning):
        target.load_state_dict({k: v for k, v in content.items() if k != KEY})


def made_from(content: dict[str, Tensor]) -> Tensor:
    return nn.functional.softplus(content["1.parametrizations.denominator.original"])


def test_reset_parameters() -> None:
    for make in (HP1, lambda **o: OrthogonalPade("legendre", (3, 2), groups=3, shared_numerator=True, **o)):
        fresh = make()
        module = make(device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(2e20)
        text = repr(module)
        module.reset_parameters()
        assert all(torch.equal(p, q) for p, q in zip(module.parameters(), fresh.parameters(), strict=True))
        assert repr(module) == text == repr(fresh)
    given = OrthogonalPade.from_coefficients([1.0, 2.0], [[3.0], [4.0]], Config("power", "abs_terms", (1, 1), 2))
    changed(given)
    given.reset_parameters()
    assert given.numerator.tolist() == [1.0, 2.0]
    assert given.denominator.tolist() == [[3.0], [4.0]]


def test_reset_parameters_keeps_other_dtypes_and_refuses_what_it_cannot() -> None:
    half = HP1(dtype=torch.bfloat16)
    want = half.numerator.clone()
    changed(half).reset_parameters()
    assert torch.equal(half.numerator, want)
    empty = OrthogonalPade.from_coefficients(torch.ones(1, device="meta"), torch.ones(1, device="meta"),
                                             Config("power", "abs_terms", (0, 1)))  # fmt: skip
    with pytest.raises(SpecError, match="without values, on the meta device"):
        empty.reset_parameters()
    act = HP1()
    nn.utils.parametrize.register_parametrization(act, "denominator", nn.Identity())
    with pytest.raises(SpecError, match="parametrized"):
        act.reset_parameters()


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of one member, on gloo."""
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_sharded_checkpoints(one_process: None, tmp_path: Path) -> None:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))

    def sharded(act: nn.Module) -> Any:
        model = net(act)
        fully_shard(model, mesh=mesh)
        return model

    first = sharded(HP1())
    first(torch.randn(3, 4)).sum().backward()
    content = get_model_state_dict(first)
    dcp.save(content, checkpoint_id=str(tmp_path / "c"))
    for act, right in ((HP1(), True), (HP2(), False)):
        second = sharded(act)
        target = get_model_state_dict(second)
        dcp.load(target, checkpoint_id=str(tmp_path / "c"))
        if right:
            set_model_state_dict(second, target)
        else:
            with pytest.raises(RuntimeError, match="are of hermite_e"):
                set_model_state_dict(second, target)
    with torch.device("meta"):
        third = net()
    fully_shard(third, mesh=mesh)
    third.to_empty(device="cpu")
    third[1].reset_parameters()
    assert torch.equal(third[1].numerator.full_tensor(), HP1().numerator)


@pytest.mark.parametrize("groups", [1, 2])
def test_sharded_training_with_an_empty_denominator(one_process: None, groups: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = net(HP1(degrees=(5, 0), groups=groups))
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[1], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert model.state_dict()["1.denominator"].numel() == 0
    parallel = nn.parallel.DistributedDataParallel(net(HP1(degrees=(5, 0), groups=groups)))
    parallel(torch.randn(3, 4)).sum().backward()


def test_an_empty_denominator_is_a_buffer() -> None:
    act = HP1(degrees=(3, 0))
    assert [n for n, _ in act.named_parameters()] == ["numerator"]
    assert list(act.state_dict()) == ["numerator", "denominator", "_extra_state"]
    changed(act).reset_parameters()
    assert torch.equal(act.numerator, HP1(degrees=(3, 0)).numerator)
