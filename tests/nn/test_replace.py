"""Swapping the activations of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opau_onnx.errors import ReplacementError
from opau_onnx.nn import HP1, HP2, PAU, OrthogonalPade, replace_activations
from opau_onnx.nn.replace import RELU_AND_KIN


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.linear, self.act, self.gate = nn.Linear(4, 4), act, nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.linear(x)) * self.gate(x)


def model() -> nn.Sequential:
    return nn.Sequential(Block(nn.ReLU()), Block(nn.GELU()), nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.2)), nn.Sigmoid())


def kinds(net: nn.Module) -> list[str]:
    names = ("ReLU", "GELU", "LeakyReLU", "Tanh", "Sigmoid", "HP1", "HP2", "PAU")
    return [type(m).__name__ for m in net.modules() if type(m).__name__ in names]


def test_by_class() -> None:
    net = model()
    assert replace_activations(net) is net
    assert kinds(net) == ["HP1", "Tanh", "HP1", "Tanh", "HP1", "Sigmoid"]
    assert net(torch.randn(3, 4)).shape == (3, 4)
    net = replace_activations(model(), HP2, classes=[nn.Tanh], init="tanh")
    assert kinds(net) == ["ReLU", "HP2", "GELU", "HP2", "LeakyReLU", "Sigmoid"]


@pytest.mark.parametrize("kind", RELU_AND_KIN)
def test_every_default_class(kind: type[nn.Module]) -> None:
    net = replace_activations(nn.Sequential(kind()))
    assert isinstance(net[0], HP1)  # type: ignore[index]


def test_subclasses_count() -> None:
    class Mine(nn.ReLU):
        pass

    assert kinds(replace_activations(nn.Sequential(Mine()))) == ["HP1"]


def test_by_name_and_pattern() -> None:
    assert kinds(replace_activations(model(), names="1.act")) == ["ReLU", "Tanh", "HP1", "Tanh", "LeakyReLU", "Sigmoid"]
    assert kinds(replace_activations(model(), names=["0.*", "2.*"])) == ["HP1", "Tanh", "GELU", "Tanh", "HP1", "Sigmoid"]
    everything = replace_activations(model(), PAU, names="*.gate", classes=(nn.Module,), version="N", init="tanh")
    assert kinds(everything) == ["ReLU", "PAU", "GELU", "PAU", "LeakyReLU", "Sigmoid"]


def test_options_reach_the_factory() -> None:
    net = replace_activations(model(), PAU, version="B", groups=2, axis=-1, shared_numerator=True)
    act = net[0].act  # type: ignore[index]
    assert act.config.form == "abs_sum"
    assert act.denominator.shape == (2, 4)
    assert act.numerator.shape == (6,)


def test_shared_modules_stay_shared() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(4, 4), relu, Block(relu), nn.Sequential(relu))
    replace_activations(net)
    assert net[1] is net[2].act is net[3][0]
    assert isinstance(net[1], HP1)
    assert sum(isinstance(m, HP1) for m in net.modules()) == 1


def test_one_of_several_places_by_name() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(relu, relu)
    replace_activations(net, names="1")
    assert net[0] is relu
    assert isinstance(net[1], HP1)


def test_root() -> None:
    assert isinstance(replace_activations(nn.ReLU()), HP1)


def test_imitation() -> None:
    net = nn.Sequential(nn.LeakyReLU(0.5), nn.GELU(), nn.PReLU(init=0.4))
    before = list(net)
    x = torch.linspace(-3, 3, 200)
    replace_activations(net, HP2, imitate=True)
    for new, old in zip(net, before, strict=True):
        assert isinstance(new, OrthogonalPade)
        assert new.fit is not None
        assert (new(x) - old(x)).abs().max() < new.fit.max_error + 1e-5 < 0.06
    assert "LeakyReLU on [-3, 3]" in repr(net[0])


def test_imitation_leaves_the_random_state_and_the_old_module_alone() -> None:
    old = nn.RReLU()
    torch.manual_seed(0)
    net = replace_activations(nn.Sequential(old), imitate=True)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert after == torch.rand(1)
    assert old.training
    assert net[0].training  # type: ignore[index]


def test_training_mode() -> None:
    assert replace_activations(nn.Sequential(nn.ReLU()).eval())[0].training is False  # type: ignore[index]
    assert replace_activations(nn.Sequential(nn.ReLU()))[0].training is True  # type: ignore[index]


def test_device_and_dtype() -> None:
    on_meta = replace_activations(nn.Sequential(nn.Linear(2, 2, device="meta"), nn.ReLU()))
    assert on_meta[1].numerator.device.type == "meta"  # type: ignore[index]
    double = replace_activations(nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.ReLU()), dtype=torch.float64)
    assert double[1].numerator.dtype == torch.float64  # type: ignore[index]


def test_errors() -> None:
    message = r"no module of the classes ReLU.*; the model holds Linear, Sequential\. .*F\.relu"
    with pytest.raises(ReplacementError, match=message):
        replace_activations(nn.Sequential(nn.Linear(2, 2)))
    net = model()
    with pytest.raises(ReplacementError, match=r"names \['4\.\*'\] match no module of the classes"):
        replace_activations(net, names=["0.*", "4.*"])
    assert kinds(net) == kinds(model()), "nothing is swapped where anything is amiss"
    with pytest.raises(ReplacementError, match=r"names \['0.gate'\] match no module"):
        replace_activations(model(), names="0.gate")
    with pytest.raises(ValueError, match="names"):
        replace_activations(model(), names="nothing")
