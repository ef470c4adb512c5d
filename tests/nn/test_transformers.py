"""Learned activations in PyTorch's transformer layers: fused paths, masks, copies."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import opau_onnx
from opau_onnx.errors import LoadError
from opau_onnx.nn import HP1, replace_activations
from opau_onnx.nn.copying import copy_module
from opau_onnx.nn.transformers import shadowed

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
MASK = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
SRC, TGT = torch.randn(2, 5, 8), torch.randn(2, 4, 8)


def encoder(activation: Any = "gelu") -> nn.TransformerEncoder:
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation=activation, batch_first=True), 2).eval()


def decoder() -> nn.TransformerDecoder:
    torch.manual_seed(0)
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, 0.0, activation=nn.GELU(), batch_first=True), 2).eval()


def doubling(model: nn.Module) -> nn.Module:
    """Its activations become one that is far from GELU."""
    replace_activations(model, lambda: HP1(init=lambda x: 2 * x))
    return model


def test_the_encoder_leaves_its_fused_paths() -> None:
    model = encoder(nn.GELU())
    assert model.use_nested_tensor
    wrapped = nn.ModuleDict({"body": nn.Sequential(model)})
    doubling(wrapped)
    assert not model.use_nested_tensor
    assert not any(layer.activation_relu_or_gelu for layer in model.layers)
    with torch.no_grad():
        fast = model(SRC, src_key_padding_mask=MASK)
        model.train()
        slow = model(SRC, src_key_padding_mask=MASK)
    torch.testing.assert_close(fast[~MASK], slow[~MASK])


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "copy_module"])
def test_copies_of_a_decoder_keep_the_activation(how: str) -> None:
    model = doubling(decoder())
    copied: nn.Module = {
        "deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "copy_module": copy_module,
    }[how](model)  # fmt: skip
    assert isinstance(copied.layers[0], nn.TransformerDecoderLayer)  # type: ignore[union-attr, index]
    assert not shadowed(copied)
    assert torch.equal(copied(TGT, SRC), model(TGT, SRC))


def test_a_copy_of_a_layer_that_was_made_with_one() -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, 0.0, activation=HP1(init=lambda x: 2 * x), batch_first=True).eval()
    assert torch.equal(copy_module(layer)(TGT, SRC), layer(TGT, SRC))
    forgetful = copy.deepcopy(layer)
    assert shadowed(forgetful) == [""], "if this fails, PyTorch has mended it"
    assert torch.equal(copy_module(forgetful)(TGT, SRC), forgetful(TGT, SRC)), "a copy computes what its original does"


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = decoder()

    def forward(self, tgt: Tensor, memory: Tensor) -> Tensor:
        y: Tensor = self.decoder(tgt, memory)
        return y


def test_a_decoder_is_exported_with_its_activation(tmp_path: Path) -> None:
    model = doubling(Pair()).eval()
    result = opau_onnx.export_model(model, tmp_path / "m.onnx", (TGT, SRC))
    assert result.equal
    assert len(result.activations) == 2


def test_a_hidden_activation_is_refused(tmp_path: Path) -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, 0.0, activation=HP1(), batch_first=True)
    model = nn.TransformerDecoder(layer, 1).eval()  # which copies the layer
    with pytest.raises(LoadError, match=r"layers\.0: PyTorch's copy of a TransformerDecoderLayer has set ReLU over"):
        opau_onnx.export_model(model, tmp_path / "m.onnx", (TGT, SRC), validate=False)
