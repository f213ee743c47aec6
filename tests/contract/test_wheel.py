"""What an installed cni-cleanup consists of."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["beat", "cli", "cni", "tasks", "workers"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = directory.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_five_packages_and_nothing_else(wheel: zipfile.ZipFile):
    tops = {name.split("/", 1)[0] for name in wheel.namelist()}
    assert sorted(top for top in tops if not top.endswith(".dist-info")) == PACKAGES


def test_the_wheel_holds_every_module_the_page_and_the_demo_data_byte_for_byte(wheel: zipfile.ZipFile):
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    data = [path for path in (ROOT / "cli/demo/data").rglob("*") if path.is_file()]
    page = [path for path in (ROOT / "cli/html").iterdir() if path.suffix in (".html", ".css")]
    assert data
    assert len(page) == 2
    for path in sources + data + page:
        assert wheel.read(str(path.relative_to(ROOT))) == path.read_bytes()


def test_both_names_of_the_program_start_the_same_function(wheel: zipfile.ZipFile):
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    scripts = wheel.read(entry_points).decode().splitlines()
    assert scripts == ["[console_scripts]", "api-cni-cleanup = cli:main", "cni-cleanup = cli:main"]
