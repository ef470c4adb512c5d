from __future__ import annotations

from pathlib import Path

import pytest

from tests.verify import nets


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return nets.files(tmp_path_factory.mktemp("verified"))
