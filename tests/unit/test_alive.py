"""Files that say that a process lives."""

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from beat import ticks
from tests.support.polling import until
from workers import alive

LONG_AGO = 1_000_000_000.0


def is_new(path: Path) -> bool:
    return path.exists() and path.stat().st_mtime > LONG_AGO + 1


def test_a_process_that_lives_touches_its_file_again_and_again(tmp_path: Path):
    path = tmp_path / "control.alive"
    end = alive.keep(str(path), is_alive=lambda: True, every=0.01)
    try:
        until(lambda: is_new(path), what="the file")
        os.utime(path, (LONG_AGO, LONG_AGO))
        until(lambda: is_new(path), what="the next sign")
    finally:
        end()


def test_a_process_that_is_stuck_does_not(tmp_path: Path):
    asked = threading.Event()

    def is_alive() -> bool:
        asked.set()
        return False

    end = alive.keep(str(tmp_path / "control.alive"), is_alive=is_alive, every=0.01)
    try:
        assert asked.wait(30)
        asked.clear()
        assert asked.wait(30)
    finally:
        end()
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_state_directory_nothing_is_made(tmp_path: Path):
    alive.keep(str(tmp_path / "none/control.alive"), is_alive=lambda: True)()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "control.alive"
    path.mkdir()
    turns = threading.Semaphore(0)

    def is_alive() -> bool:
        turns.release()
        return True

    with caplog.at_level(logging.WARNING):
        end = alive.keep(str(path), is_alive=is_alive, every=0.01)
        try:
            for _ in range(3):
                assert turns.acquire(timeout=30)
        finally:
            end()
    assert [record.message for record in caplog.records] == [f"no sign of life: [Errno 21] Is a directory: '{path}'"]


def test_a_beat_that_waits_for_its_turn_or_ticks_lives_and_one_that_ticks_no_more_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ticks._Last, "at", None)
    assert ticks.is_alive()
    ticks.ticked()
    assert ticks.is_alive()
    monkeypatch.setattr(ticks._Last, "at", time.monotonic() - 121)
    assert not ticks.is_alive()
