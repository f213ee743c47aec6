"""tools/find-python: the Python that `make` works with, or one line that says which package is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/find-python"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The only directory on the PATH, empty as yet."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def find(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTHON", "PYTHONPATH"}}
    return subprocess.run(
        ["/bin/sh", TOOL],
        env=kept | {"PATH": str(path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_on_the_path_is_found_under_its_versioned_name_first(path: Path):
    for name in ("python3", f"python{VERSION}"):
        (path / name).symlink_to(sys.executable)
    found = find(path)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{path}/python{VERSION}\n", "")


def test_a_name_that_leads_to_no_python_is_passed_over(path: Path):
    program(path / "python3.13", "echo 'python3.13: command not found' >&2; exit 127")
    (path / "python3").symlink_to(sys.executable)
    assert find(path).stdout == f"{path}/python3\n"


def test_the_named_python_is_taken_also_from_a_directory_with_a_space(path: Path, tmp_path: Path):
    named = tmp_path / "my pythons"
    named.symlink_to(Path(sys.executable).parent)
    name = str(named / Path(sys.executable).name)
    assert find(path, PYTHON=name).stdout == f"{name}\n"


def test_without_ensurepip_one_line_names_the_package(path: Path, tmp_path: Path):
    # What Debian's python3 is without python3-venv: everything there, but ensurepip cannot be imported.
    (tmp_path / "ensurepip.py").write_text("raise ImportError\n")
    (path / "python3").symlink_to(sys.executable)
    found = find(path, PYTHONPATH=str(tmp_path))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (f"python3 can make no virtual environment: apt install python3-venv (or python{VERSION}-venv)\n")


def test_without_any_python_one_line_names_the_packages(path: Path):
    found = find(path)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.count("\n") == 1
    assert "apt install python3 python3-venv" in found.stderr


def test_a_named_python_that_is_none_or_too_old_is_refused_by_its_name(path: Path):
    (path / "python3").symlink_to(sys.executable)
    old = program(path / "python3.8", "exit 1")
    found = find(path, PYTHON=str(old))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == f"PYTHON={old} is not a Python 3.11, 3.12 or 3.13: name one that is\n"
