"""The compiled library for tests: a skip with its reason where there is none, a failure where one is promised."""

from __future__ import annotations

import ctypes
import os

import pytest

from opau_onnx import native
from opau_onnx.errors import LibraryError


def required_library() -> ctypes.CDLL:
    try:
        return native.open_library()
    except LibraryError as error:
        if os.environ.get("OPAU_REQUIRE_LIBRARY") == "1":
            pytest.fail(f"OPAU_REQUIRE_LIBRARY=1, but there is no library: {error}")
        pytest.skip(f"no compiled library: {error}")
