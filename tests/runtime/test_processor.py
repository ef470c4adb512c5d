"""What is read from the processor's flags."""

from __future__ import annotations

import pytest

from opau_onnx.runtime.processor import saturates_8_bit


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("fpu sse2 avx2 fma", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx_vnni", False),
        (None, False),
    ],
)
def test_vnni_is_what_keeps_products_of_8_bits(flags: str | None, saturates: bool) -> None:
    lines = ["processor\t: 0", "model name\t: a processor"] + ([f"flags\t\t: {flags}"] if flags else [])
    assert saturates_8_bit("\n".join(lines)) is saturates
