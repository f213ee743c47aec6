"""The race that a careless cleaner loses."""

import os
import random
from pathlib import Path

import pytest

from tests.support.plugin import find_host_local
from tests.support.race import Lost, Race
from tests.support.skips import in_ci

OPERATIONS = int(os.environ.get("RACE_OPERATIONS") or (20_000 if in_ci() else 2_000))
"""Real ADDs and DELs of the plugin."""

SEED = int(os.environ.get("RACE_SEED") or random.SystemRandom().randrange(10**9))
"""What is drawn by lot comes from it; the threads and processes are as fast as the machine lets them."""


@pytest.fixture
def plugin() -> Path:
    """The real host-local."""
    binary = find_host_local()
    if binary is None:
        pytest.skip("host-local is missing: apt install containernetworking-plugins")
    return binary


@pytest.mark.timeout(900)
def test_no_live_reservation_is_lost_and_every_leak_goes_while_plugin_and_cleaner_race(
    tmp_path: Path, short_dir: Path, plugin: Path, capsys: pytest.CaptureFixture[str]
):
    figures = Race(tmp_path, short_dir, plugin, operations=OPERATIONS, seed=SEED).run()
    with capsys.disabled():
        print(f"\n{figures.line()}")
    assert figures.counts["operations"] >= OPERATIONS
    for what in ("leaks", "files that vanished as the journal says", "killed cleaners", "killed ADDs", "killed DELs"):
        assert figures.counts[what] > 0, f"this was no race: there were no {what}"


LIVE_ONE_LOST = "was taken from|has two living owners|is not there when its ADD returns|while .* lived|plugin's lock was held"


@pytest.mark.parametrize(
    ("guard", "loses_by"),
    [
        ("age", LIVE_ONE_LOST),
        ("runtime", LIVE_ONE_LOST),
        ("lock", LIVE_ONE_LOST),
        ("compare", LIVE_ONE_LOST),
        ("journal", "vanished, and is not in the journal"),
    ],
    ids=["age", "runtime", "lock", "compare", "journal"],
)
def test_a_cleaner_without_this_guard_loses(tmp_path: Path, short_dir: Path, plugin: Path, guard: str, loses_by: str):
    with pytest.raises(Lost, match=loses_by):
        Race(tmp_path, short_dir, plugin, operations=100_000, seed=SEED, sabotage=guard, limit=100.0).run()
