"""Each guard is taken out once, in a copy of the program, to see the test that holds it fail. Unchanged, all of them pass."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.guards import HAZARDS, RULES, Guard

REPOSITORY = Path(__file__).parents[2]
PARTS = ("cni", "workers", "tasks", "beat", "cli", "tests", "pyproject.toml")
GUARDS = [(number, guard) for number, guards in RULES.items() for guard in guards]
TAKEN_OUT = [(number, guard) for number, guard in GUARDS if guard.without is not None]
FIRST_TESTS = tuple(dict.fromkeys(guard.tests[0] for _, guard in TAKEN_OUT))
ALL_TESTS = tuple(
    dict.fromkeys(
        [*(test for _, guard in GUARDS for test in guard.tests), *(test for one in HAZARDS.values() for test in one.tests)]
    )
)

# All those tests in one run are the longest.
pytestmark = pytest.mark.timeout(420)

_OUTCOME = re.compile(r"(tests/\S+\.py::.+?) (PASSED|FAILED|SKIPPED|ERROR)\b")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The program and its tests, where they can be changed, compiled so that a changed file is never taken for the old one."""
    directory = tmp_path_factory.mktemp("program")
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, directory / part)
    compile_all = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "."]
    subprocess.run(compile_all, cwd=directory, env=environment_in(directory), check=True, timeout=110)
    return directory


def environment_in(copy: Path) -> dict[str, str]:
    """Python finds the copy first, and keeps all bytecode beside it, also of what is installed: that halves the time and more."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONPYCACHEPREFIX": str(copy.with_name("bytecode"))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


@pytest.fixture(scope="module")
def baseline(request, copy) -> Mapping[str, str]:
    """What became of each test that a guard is to fail, with nothing taken out; only of the guards that were chosen to run."""
    guards = (item.callspec.params.get("guard") for item in request.session.items if hasattr(item, "callspec"))
    chosen = [guard.tests[0] for guard in guards if isinstance(guard, Guard)]
    result = run(copy, "-vv", *dict.fromkeys(chosen or FIRST_TESTS), keep_bytecode=True, timeout=300)
    outcomes = {found[1]: found[2] for line in result.stdout.splitlines() if (found := _OUTCOME.match(line))}
    failed = sorted(name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
    assert not failed, f"these fail with every guard in place: {failed}\n{result.stdout[-20_000:]}"
    assert result.returncode == 0, result.stdout + result.stderr
    return outcomes


def run(copy: Path, *arguments: str, keep_bytecode: bool = False, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    environment = environment_in(copy)
    if not keep_bytecode:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=timeout)


def outcomes_of(test: str, baseline: Mapping[str, str]) -> set[str]:
    """Of the test, or of all in the function, class or file that it names."""
    return {outcome for name, outcome in baseline.items() if name == test or name.startswith((f"{test}[", f"{test}::"))}


def test_every_test_that_is_named_can_be_collected(copy):
    """Also the parameters in brackets."""
    result = run(copy, "--collect-only", *ALL_TESTS)
    assert result.returncode == 0, result.stdout + result.stderr


def test_with_every_guard_in_place_all_their_tests_pass(baseline):
    assert baseline


@pytest.mark.parametrize(("number", "guard"), TAKEN_OUT, ids=[f"rule {number}: {guard.what}" for number, guard in TAKEN_OUT])
def test_without_the_guard_its_test_fails(copy, baseline, number, guard: Guard):
    assert guard.without is not None
    unchanged = outcomes_of(guard.tests[0], baseline)
    assert unchanged, f"{guard.tests[0]} did not run"
    if "PASSED" not in unchanged:
        pytest.skip(f"{guard.tests[0]} is skipped here: run it as root, with all that CONTRIBUTING names")
    file = copy / guard.without.file
    original = file.read_text()
    file.write_text(original.replace(guard.without.old, guard.without.new))
    try:
        result = run(copy, "-x", guard.tests[0])
    finally:
        file.write_text(original)
    assert result.returncode == 1, f"still passes without it:\n{result.stdout}{result.stderr}"
    assert re.search(r"\d+ failed", result.stdout), result.stdout
