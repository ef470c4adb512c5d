"""The same on a CUDA device, where one is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES
from opau_onnx.nn import HP1, orthogonal_pade
from tests.cases import SHARED_CASES, case
from tests.nn.test_forward import as_inputs, errors, run
from tests.nn.test_gradients import gradients, leaves, sample


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_values(cuda: str, basis: str, form: str) -> None:
    at = case(basis, form)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = as_inputs(at, dtype)
        assert errors(at, x, run(at, x.to(cuda)).cpu()).max(initial=0.0) <= 1.0


@pytest.mark.parametrize("at", SHARED_CASES[:7], ids=str)
def test_groups(cuda: str, at: object) -> None:
    x = as_inputs(at, torch.float32)  # type: ignore[arg-type]
    assert errors(at, x, run(at, x.to(cuda)).cpu()).max(initial=0.0) <= 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("basis", BASES)
def test_gradients(cuda: str, basis: str) -> None:
    at = case(basis, "abs_terms")
    inputs = leaves(at, sample(at, 1000), torch.float32)
    there = tuple(v.detach().to(cuda).requires_grad_() for v in inputs)
    g = torch.ones_like(inputs[0])
    want, got = gradients(orthogonal_pade, inputs, at.config, g), gradients(orthogonal_pade, there, at.config, g.to(cuda))
    for ours, right in zip(got, want, strict=True):
        torch.testing.assert_close(ours.cpu(), right, rtol=1e-4, atol=1e-3 * float(right.abs().max()))


def test_infinities_and_nan(cuda: str) -> None:
    y = HP1(device=cuda)(torch.tensor([np.inf, -np.inf, np.nan, 1e30], device=cuda))
    assert torch.isnan(y).tolist() == [False, False, True, False]


def test_no_synchronisation_in_a_step(cuda: str) -> None:
    module = HP1(device=cuda)
    x = torch.randn(1000, device=cuda, requires_grad=True)
    module(x).sum().backward()  # what is loaded and allocated once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        module(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_autocast(cuda: str) -> None:
    module, x = HP1(device=cuda), torch.randn(100, device=cuda).half()
    with torch.autocast("cuda", torch.float16):
        y = module(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), module(x.float()), rtol=1e-3, atol=1e-3)
