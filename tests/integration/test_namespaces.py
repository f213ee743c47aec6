"""Namespaces that tests mount are real ones, and all of it is undone."""

from pathlib import Path

import pytest

from tests.support.namespaces import Namespaces, mount_points, unmount_below

NAME = "cni-0d5c6f86-b853-d85c-3bc6-790219ad119f"


def test_a_namespace_is_mounted_at_a_path_and_taken_back(namespaces: Namespaces, tmp_path: Path):
    there = tmp_path / "there"
    there.touch()
    made = namespaces.mount(tmp_path / "run" / "netns" / NAME)
    namespaces.mount(there)
    assert mount_points(tmp_path) == {made: "nsfs", there: "nsfs"}
    namespaces.undo()
    assert mount_points(tmp_path) == {}
    assert (made.exists(), there.exists()) == (False, True)


def test_mounts_share_a_namespace_unless_a_fresh_one_is_wanted(namespaces: Namespaces, tmp_path: Path):
    first, second = (namespaces.mount(tmp_path / name) for name in ("first", "second"))
    fresh = namespaces.mount(tmp_path / "fresh", fresh=True)
    assert first.stat().st_ino == second.stat().st_ino != fresh.stat().st_ino
    assert Path("/proc/self/ns/net").stat().st_ino not in {first.stat().st_ino, fresh.stat().st_ino}


def test_an_unmounted_name_stays_as_a_plain_file(namespaces: Namespaces, tmp_path: Path):
    path = namespaces.mount(tmp_path / NAME)
    namespaces.unmount(path)
    assert mount_points(tmp_path) == {}
    assert path.read_bytes() == b""


def fail_after_a_mount(path: Path) -> None:
    with Namespaces() as inner:
        inner.mount(path)
        raise RuntimeError


def test_mounts_are_undone_when_the_block_fails(namespaces: Namespaces, tmp_path: Path):
    with pytest.raises(RuntimeError):
        fail_after_a_mount(tmp_path / NAME)
    assert mount_points(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_what_was_mounted_over_a_mount_is_unmounted_as_well(namespaces: Namespaces, tmp_path: Path):
    path = namespaces.mount(tmp_path / "with a space")
    namespaces.mount(path)
    unmount_below(tmp_path)
    assert mount_points(tmp_path) == {}
