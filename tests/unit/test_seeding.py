"""The demo's nodes in directories that are there before: each is made once, and whole."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.demo.nodes import make
from cli.demo.seeding import main, seed


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Empty directories for three nodes."""
    for number in (1, 2, 3):
        (tmp_path / "volumes" / f"node-{number}").mkdir(parents=True)
    return tmp_path / "volumes"


def test_an_empty_directory_gets_what_the_demo_makes(volumes: Path, tmp_path: Path):
    made = [seed(number, volumes) for number in (1, 2, 3)]
    assert made == [True, True, True]
    make(3, tmp_path / "demo")
    assert contents(volumes) == contents(tmp_path / "demo")


def test_a_directory_with_something_in_it_is_left_alone(volumes: Path):
    (volumes / "node-2" / "note").write_text("mine")
    assert [seed(number, volumes) for number in (1, 2, 3)] == [True, False, True]
    assert contents(volumes / "node-2") == {"note": b"mine"}


def test_what_was_removed_does_not_come_back(volumes: Path):
    seed(1, volumes)
    for path in (volumes / "node-1/root/var/lib/cni/networks").glob("*/10.*"):
        path.unlink()
    before = contents(volumes)
    assert not seed(1, volumes)
    assert contents(volumes) == before


def test_one_that_was_interrupted_is_made_whole(volumes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with monkeypatch.context() as patch:
        patch.setattr("cli.demo.nodes.shutil.copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            seed(1, volumes)
    assert contents(volumes / "node-1")
    assert seed(1, volumes)
    make(1, tmp_path / "demo")
    assert contents(volumes) == contents(tmp_path / "demo")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_command_says_what_it_did(volumes: Path):
    (volumes / "node-2" / "note").write_text("mine")
    done = CliRunner().invoke(main, [str(volumes), "2"])
    assert done.output == "node-1: seeded\nnode-2: has files already, left alone\n"
