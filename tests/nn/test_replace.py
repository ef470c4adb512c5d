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


def foreign(module: str, name: str, function: object = torch.relu) -> nn.Module:
    """A module of a class that another library would define."""
    kind = type(name, (nn.Module,), {"forward": lambda self, x: function(x), "__module__": module})  # type: ignore[operator]
    return kind()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "name", "swapped"),
    [
        ("transformers.activations", "GELUActivation", True),
        ("transformers.activations", "QuickGELUActivation", True),
        ("transformers.activations", "LinearActivation", False),
        ("timm.layers.activations", "Swish", True),
        ("timm.layers.activations", "Sigmoid", False),
        ("timm.layers.activations_me", "MishMe", True),
        ("diffusers.models.activations", "FP32SiLU", True),
        ("diffusers.models.activations", "GELU", False),
        ("mine.activations", "GELUActivation", False),
    ],
)
def test_other_libraries_activations_by_name(module: str, name: str, swapped: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), foreign(module, name), nn.ReLU())
    replace_activations(net)
    assert isinstance(net[1], HP1) is swapped
    assert isinstance(net[2], HP1)


def test_an_activation_inside_another_one_goes_with_it() -> None:
    outer = foreign("transformers.activations", "GELUActivation")
    outer.add_module("act", nn.GELU())
    net = nn.Sequential(outer)
    replace_activations(net)
    assert isinstance(net[0], HP1)


def test_imitation_of_other_libraries() -> None:
    net = nn.Sequential(foreign("timm.layers.activations", "Swish", lambda x: x * torch.sigmoid(x)))
    replace_activations(net, imitate=True)
    x = torch.linspace(-3, 3, 50)
    assert (net(x) - x * torch.sigmoid(x)).abs().max() < 0.02


def test_shared_instances_can_be_split() -> None:
    act = nn.SiLU()
    made = [nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act) for _ in range(2)]
    replace_activations(made[0])
    replace_activations(made[1], share=False)
    assert made[0][1] is made[0][3]
    assert made[1][1] is not made[1][3]
    assert isinstance(made[1][3], HP1)


def test_groups_by_the_channels_of_the_example() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).train()
    before = net[1].running_mean.clone()
    replace_activations(net, HP1, groups="channel", example=torch.randn(2, 3, 8, 8))
    assert [net[2].config.groups, net[4].config.groups] == [6, 4]
    assert torch.equal(net[1].running_mean, before), "the run leaves no trace"
    assert net.training
    assert all(m.training for m in net.modules())
    last = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    replace_activations(last, HP1, groups="channel", axis=-1, example=(torch.randn(2, 7, 4),))
    assert (last[1].config.groups, last[1].config.axis) == (5, -1)


def test_channels_that_the_example_does_not_tell() -> None:
    def net() -> nn.Sequential:
        act = nn.ReLU()
        return nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 2), act)

    with pytest.raises(ReplacementError, match='groups="channel" needs an example input'):
        replace_activations(net(), HP1, groups="channel")
    with pytest.raises(ReplacementError, match="1 gets 2 and 6 channels at different places"):
        replace_activations(net(), HP1, groups="channel", example=torch.randn(3, 4))
    with pytest.raises(ReplacementError, match="has no axis 2"):
        replace_activations(net(), HP1, groups="channel", axis=2, example=torch.randn(3, 4))


def test_device_and_dtype_of_what_stands_around() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()).bfloat16(),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to("meta"),
    )  # fmt: skip
    replace_activations(net)
    assert net[0][1].numerator.dtype == torch.float64
    assert net[1][1].numerator.dtype == torch.float32
    assert net[2][1].numerator.device.type == "meta"
