"""
A Docker engine: one that answers, else that of the `container-lab` script, for as long as the tests run.

The lab has a bridge of the machine's own, so there is one per machine, in the script's own directory. One that runs is used, and
left running; `exclusive` keeps a second test run from having it taken away.
"""

import contextlib
import functools
import json
import os
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodelab import exclusive
from tests.support.program import REPOSITORY
from tests.support.skips import require, require_program, require_root

BASE = "python:3.12-slim"
"""What both images are made from."""

BUILT_WITHIN = 600.0
"""Seconds; one on an idle machine, with all that is installed within reach."""

_BESIDE_CHECKOUT = Path("shared", "tools", "container-lab", "container-lab")


class EngineError(Exception):
    """A command failed; the message holds what it printed."""


@dataclass(frozen=True)
class Engine:
    """One that `docker` reaches by this environment."""

    environment: Mapping[str, str]

    def attempt(self, *command: str | Path, timeout: float = 120.0) -> "subprocess.CompletedProcess[str]":
        """Run a command in its environment, from the top of the repository, and return its end, good or bad."""
        return subprocess.run(
            command,
            env=self.environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def docker(self, *arguments: str | Path, timeout: float = 120.0) -> str:
        """What a docker command says.

        Raises:
            EngineError: it failed.
        """
        done = self.attempt("docker", *arguments, timeout=timeout)
        if done.returncode:
            raise EngineError(f"docker {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}".strip())
        return done.stdout

    def answers(self) -> bool:
        """Whether it is there."""
        return self.attempt("docker", "info").returncode == 0

    def inspect(self, kind: str, *names: str) -> list[dict[str, Any]]:
        """All that it knows about containers, images, volumes or networks.

        Raises:
            EngineError: there is none of that name.
        """
        found: list[dict[str, Any]] = json.loads(self.docker(kind, "inspect", *names)) if names else []
        return found

    def size(self, image: str) -> int:
        """Bytes of an image, with those of its base."""
        size: int = self.inspect("image", image)[0]["Size"]
        return size


@dataclass(frozen=True)
class Images:
    """What the two Dockerfiles make, under a tag of this run's own."""

    engine: Engine
    tag: str

    @property
    def program(self) -> str:
        """The program's."""
        return f"cni-cleanup:{self.tag}"

    @property
    def exporter(self) -> str:
        """celery-exporter's."""
        return f"cni-cleanup-exporter:{self.tag}"

    def build(self) -> None:
        """Make both. The first stages get a tag too, by which they can be removed.

        Raises:
            EngineError: one cannot be made.
        """
        for file, image in (("Dockerfile", self.program), ("exporter.Dockerfile", self.exporter)):
            build = functools.partial(self.engine.docker, "build", "-f", f"deploy/{file}", timeout=BUILT_WITHIN)
            build("--target", "build", "-t", f"{image}-build", ".")
            build("-t", image, ".")

    def remove(self) -> None:
        """Take them away, also after half of a build."""
        for image in (self.program, self.exporter):
            for name in (image, f"{image}-build"):
                self.engine.attempt("docker", "image", "rm", "--force", name)


class ContainerLab:
    """The lab in the directory of this machine; its methods run the script and raise EngineError when it fails."""

    def __init__(self, script: Path, directory: Path) -> None:
        self.script = script
        self.directory = directory

    def engine(self) -> Engine:
        """Its engine, whether it runs or not."""
        exports = shlex.split(self._run("env"))[1:]
        return Engine({**os.environ, **dict(export.split("=", 1) for export in exports)})

    def up(self) -> None:
        """Start it, with the images that others build on."""
        self._run("up")

    def down(self) -> None:
        """Stop it."""
        self._run("down")

    def _run(self, verb: str) -> str:
        command: Sequence[str | Path] = [self.script, verb, self.directory]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise EngineError(f"container-lab {verb}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def find_lab() -> ContainerLab | None:
    """The lab of $CONTAINER_LAB, else of shared/tools beside the checkout, if there is that script."""
    named = os.environ.get("CONTAINER_LAB")
    script = Path(named) if named else Path(__file__).parents[3] / _BESIDE_CHECKOUT
    return ContainerLab(script, Path(tempfile.gettempdir(), "container-lab")) if os.access(script, os.X_OK) else None


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine that answers. Skips where there is none and no lab to make one."""
    require_program("docker", "docker.io")
    # The builder that every engine has.
    engine = Engine({**os.environ, "DOCKER_BUILDKIT": "0"})
    if engine.answers():
        yield engine
        return
    lab = find_lab()
    require(lab, f"no Docker engine answers, and there is no container-lab: set CONTAINER_LAB, or have {_BESIDE_CHECKOUT} beside")
    assert lab is not None
    require_root()
    with exclusive(lab):
        engine = lab.engine()
        if engine.answers():
            yield engine
            return
        try:
            lab.up()
            yield engine
        finally:
            lab.down()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine."""
    with running_engine() as found:
        yield found


@pytest.fixture(scope="session")
def images(engine: Engine, figures: list[str]) -> Iterator[Images]:
    """Both images, built by the older builder and gone afterwards."""
    made = Images(engine, f"test-{secrets.token_hex(4)}")
    started = time.monotonic()
    try:
        made.build()
        figures.append(f"images: built in {time.monotonic() - started:.0f} s, what the engine had kept of earlier builds used")
        yield made
    finally:
        made.remove()
