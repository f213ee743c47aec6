"""Counting the files below a directory, as the two metrics of the older tool do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.paths import Root
from workers.tally import Files, Tally

LONG_AGO = 1_600_000_000


def files(tmp_path: Path) -> Files:
    return Files(Root(str(tmp_path)), "/cni")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A flat directory of one network, with all that host-local writes."""
    made = tmp_path / "cni"
    made.mkdir()
    for name, text in {"10.88.0.2": "a" * 70, "10.88.0.3": "b" * 70, "lock": "", "last_reserved_ip.0": "10.88.0.3"}.items():
        (made / name).write_text(text)
    return made


def test_every_regular_file_counts_with_its_real_size(tmp_path: Path, top: Path):
    assert files(tmp_path).tally() == Tally(files=4, size=149)


def test_files_at_any_depth_count(tmp_path: Path, top: Path):
    (top / "networks" / "cbr0").mkdir(parents=True)
    (top / "networks" / "cbr0" / "10.88.0.9").write_text("123")
    assert files(tmp_path).tally() == Tally(files=5, size=152)


def test_links_sockets_and_fifos_are_no_files(tmp_path: Path, top: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("1")
    (top / "link").symlink_to("10.88.0.2")
    (top / "directory-link").symlink_to("/elsewhere")
    os.mkfifo(top / "fifo")
    assert files(tmp_path).tally().files == 4


def add(top: Path) -> None:
    (top / "10.88.0.4").write_text("12345")


def remove(top: Path) -> None:
    (top / "10.88.0.2").unlink()


def add_below(top: Path) -> None:
    (top / "below" / "file").write_text("12345")


def remove_a_directory(top: Path) -> None:
    (top / "below" / "there").unlink()
    (top / "below").rmdir()


@pytest.mark.parametrize(
    ("change", "tally"),
    [
        (add, Tally(files=6, size=155)),
        (remove, Tally(files=4, size=80)),
        (add_below, Tally(files=6, size=155)),
        (remove_a_directory, Tally(files=4, size=149)),
    ],
)
@pytest.mark.parametrize("age", ["old", "just changed"])
def test_what_changes_is_found_by_the_next_tally(
    tmp_path: Path, top: Path, change: Callable[[Path], None], tally: Tally, age: str
):
    (top / "below").mkdir()
    (top / "below" / "there").write_text("1")
    if age == "old":
        for directory in (top, top / "below"):
            os.utime(directory, (LONG_AGO, LONG_AGO))
    counting = files(tmp_path)
    assert counting.tally() == Tally(files=5, size=150)
    change(top)
    assert counting.tally() == tally


def test_a_directory_that_has_not_changed_is_not_read_again(tmp_path: Path, top: Path):
    os.utime(top, (LONG_AGO, LONG_AGO))
    counting = files(tmp_path)
    before = counting.tally()
    # A write into a file does not change its directory: that it is not seen shows that nothing was read.
    (top / "10.88.0.2").write_text("longer" * 100)
    assert counting.tally() == before


def test_one_that_changed_just_before_is_read_again(tmp_path: Path, top: Path):
    counting = files(tmp_path)
    before = counting.tally()
    (top / "10.88.0.2").write_text("longer" * 100)
    assert counting.tally().size == before.size + 530


def test_a_part_of_the_files_is_not_told_as_all_of_them(tmp_path: Path, top: Path):
    deepest = top
    for _ in range(40):
        deepest = deepest / "d"
        deepest.mkdir()
    with pytest.raises(OSError, match="levels of directories"):
        files(tmp_path).tally()


def test_no_directory_is_an_error_and_not_zero_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        files(tmp_path).tally()
