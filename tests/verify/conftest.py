"""The exported files that the tests of compare share."""

from __future__ import annotations

from tests.compare.conftest import files

__all__ = ["files"]
