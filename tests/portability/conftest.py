"""What the tests of portability share: the networks, each made once, and a table of what was found."""

from __future__ import annotations

from functools import cache

import pytest

from tests.portability import models


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> models.Networks:
    folder = tmp_path_factory.mktemp("networks")
    return cache(lambda name: models.network(name, folder))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The rows of docs/portability.md, as they came out here."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for row in [v for report in reports for name, v in getattr(report, "user_properties", []) if name == "portability"]:
        terminalreporter.write_line(row)
