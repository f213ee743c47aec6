"""The Dockerfiles as hadolint judges them, without an exception."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import REPOSITORY
from tests.support.skips import require

HADOLINT = Path(sys.prefix, "bin", "hadolint")


@pytest.mark.parametrize("name", ["Dockerfile", "exporter.Dockerfile"])
def test_hadolint_has_nothing_to_say(name: str):
    require(HADOLINT.exists(), "hadolint is missing: make venv")
    done = subprocess.run([HADOLINT, REPOSITORY / "deploy" / name], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["Dockerfile", "exporter.Dockerfile"])
def test_the_older_builder_can_read_it(name: str):
    text = (REPOSITORY / "deploy" / name).read_text()
    for wanted in ("# syntax", "--mount", "--chmod", "--link", "<<"):
        assert wanted not in text
