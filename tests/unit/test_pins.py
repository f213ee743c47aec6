"""requirements/*.txt against pyproject.toml: pinned, hashed, in agreement, and naming no host."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
BUILD = PROJECT["build-system"]["requires"]

EXPORTER = [line for line in (ROOT / "requirements/exporter.in").read_text().splitlines() if line and not line.startswith("#")]

WANTED = {
    "run": PROJECT["project"]["dependencies"],
    "demo": PROJECT["project"]["dependencies"] + EXTRAS["demo"] + BUILD,
    "dev": PROJECT["project"]["dependencies"] + [line for extra in EXTRAS.values() for line in extra] + BUILD,
    "image": PROJECT["project"]["dependencies"] + EXTRAS["flower"] + EXTRAS["otel"] + BUILD,
    "exporter": EXPORTER,
}


def pins(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes by canonical name."""
    text = re.sub(r"^#.*\n|\\\n", "", (ROOT / f"requirements/{name}.txt").read_text(), flags=re.MULTILINE)
    found: dict[str, tuple[str, int]] = {}
    for line in text.splitlines():
        requirement = Requirement(line.split(" --hash", 1)[0])
        (version,) = requirement.specifier
        assert version.operator == "==", line
        found[canonicalize_name(requirement.name)] = (version.version, line.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("name", WANTED)
def test_everything_the_project_asks_for_is_pinned_within_its_bounds(name: str):
    pinned = pins(name)
    for wanted in map(Requirement, WANTED[name]):
        version, _ = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted} is pinned to {version}: make pins"


@pytest.mark.parametrize("name", WANTED)
def test_every_pin_has_a_hash(name: str):
    assert [pin for pin, (_, hashes) in pins(name).items() if not hashes] == []


@pytest.mark.parametrize("name", WANTED)
def test_no_pin_names_a_host(name: str):
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert re.findall(r"\S*://\S*|.*--(?:extra-)?index-url.*|.*--find-links.*", text) == []


@pytest.mark.parametrize("name", ["run", "demo", "image"])
def test_the_development_pins_contain_the_others(name: str):
    assert pins(name).items() <= pins("dev").items()


def test_the_build_is_pinned_like_the_build_system_asks():
    assert PROJECT["dependency-groups"]["build"] == BUILD
