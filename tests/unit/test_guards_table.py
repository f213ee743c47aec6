"""The table of guards is whole, and what it names exists."""

import ast
import re
from pathlib import Path

import pytest

from tests.guards import HAZARDS, RULES

REPOSITORY = Path(__file__).parents[2]
GUARDS = [(number, guard) for number, guards in RULES.items() for guard in guards]
NAMED = {test for _, guard in GUARDS for test in guard.tests}
NAMED |= {test for hazard in HAZARDS.values() for test in hazard.tests}


def test_every_rule_and_every_hazard_has_its_line():
    assert sorted(RULES) == list(range(1, 15))
    assert sorted(HAZARDS) == list(range(1, 26))
    assert all(RULES.values())
    assert all(guard.tests for _, guard in GUARDS)
    assert all(bool(hazard.tests) is (hazard.how_it_stands is None) for hazard in HAZARDS.values())


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_test_that_is_named_exists(name):
    """And it is a test, not a whole class or file: one of those says little, and takes long to fail."""
    file, *inside = re.sub(r"\[.*\]", "", name).split("::")
    body: list[ast.stmt] = ast.parse((REPOSITORY / file).read_text()).body
    found: list[ast.ClassDef | ast.FunctionDef] = []
    for part in inside:
        found = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part]
        assert found, name
        body = found[0].body
    assert found, name
    assert isinstance(found[0], ast.FunctionDef), name


@pytest.mark.parametrize(("number", "guard"), GUARDS, ids=[f"{number}: {guard.what}" for number, guard in GUARDS])
def test_every_guard_that_can_be_taken_out_stands_where_the_table_says(number, guard):
    if guard.without is None:
        return
    source = (REPOSITORY / guard.without.file).read_text()
    assert source.count(guard.without.old) == 1
    # What is left must be a program: a test that cannot even be imported proves nothing.
    compile(source.replace(guard.without.old, guard.without.new), guard.without.file, "exec")
