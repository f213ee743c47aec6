"""The rule about skips, shown with a pytest run inside this one."""

import pytest

pytest_plugins = ["pytester"]

LACKING = """
import pytest

def test_lacks_a_service():
    pytest.skip("the lab is missing")

@pytest.fixture
def lab():
    pytest.skip("the fixture's lab is missing")

def test_uses_a_lacking_fixture(lab):
    print("never reached")
"""

LACKING_MODULE = """
import pytest

pytest.skip("the whole module's lab is missing", allow_module_level=True)
"""


@pytest.fixture
def lacking(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_lacking=LACKING, test_lacking_module=LACKING_MODULE)
    return pytester


def test_at_home_a_skip_is_a_skip_with_its_reason(lacking: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    result = lacking.runpytest_inprocess("-rs", "-p", "tests.support.skips")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines_random(
        ["*the lab is missing", "*the fixture's lab is missing", "*the whole module's lab is missing"]
    )


def test_in_ci_every_skip_is_a_failure_with_its_reason(lacking: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    result = lacking.runpytest_inprocess("-p", "tests.support.skips", "--continue-on-collection-errors")
    result.assert_outcomes(failed=1, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "*a skip is a failure: *the lab is missing",
            "*a skip is a failure: *the fixture's lab is missing",
            "*a skip is a failure: *the whole module's lab is missing",
        ]
    )
