"""What tests have measured, shown at the end of the run: pytest keeps what a test prints to itself unless it fails."""

import pytest

_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines to add to."""
    return pytestconfig.stash.setdefault(_FIGURES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    measured = config.stash.get(_FIGURES, [])
    if measured:
        terminalreporter.section("figures")
        for line in measured:
            terminalreporter.write_line(line)
