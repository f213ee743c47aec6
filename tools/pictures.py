"""
Takes the pictures of the documentation: a demo, one sweep, and its pages as a browser has them.

`make pictures` writes them to docs/pictures. Times, and the order of what happens at once, differ from one run to the next.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.demo.flower import Flower
from tests.support.browser import screenshot
from tests.support.program import REPOSITORY, child_environment

NODES = 3

READY_WITHIN = 120.0
"""Seconds until the demo has made its sweep; 20 on an idle machine."""


@dataclass(frozen=True)
class Demo:
    """One that is left running after its sweep."""

    broker: str
    flower: Flower
    #: For files that pages are made of.
    directory: Path


@dataclass(frozen=True)
class Picture:
    """A page of the demo, from its upper left corner."""

    name: str
    size: tuple[int, int]
    #: The page's URL, or its file.
    page: Callable[[Demo], str | Path]
    #: Of the page's own time, for its scripts.
    wait_ms: int = 4000


def report_page(demo: Demo) -> Path:
    """The page of the demo's sweep.

    Raises:
        subprocess.CalledProcessError: it is not made.
    """
    page = demo.directory / "report.html"
    own = child_environment({"CNI_CLEANUP_BROKER": demo.broker})
    subprocess.run([sys.executable, "-m", "cli", "report", "--html", page], env=own, cwd=REPOSITORY, check=True)
    return page


PICTURES = (
    Picture("flower-workers.png", (1200, 690), lambda demo: f"{demo.flower.url_with_password}workers"),
    Picture("flower-tasks.png", (1200, 590), lambda demo: f"{demo.flower.url_with_password}tasks"),
    Picture("report.png", (1200, 1010), report_page, wait_ms=0),
)


def main(directory: Path) -> None:
    """Take all of them.

    Raises:
        SystemExit: something is missing, or the demo failed.
    """
    if shutil.which("chromium") is None:
        sys.exit("chromium is missing: apt install chromium")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as scratch, running_demo(Path(scratch)) as demo:
        wait_until(lambda: online(demo) == NODES + 1, "every worker, and control, on Flower's page")
        for picture in PICTURES:
            path = directory / picture.name
            screenshot(picture.page(demo), path, picture.size, wait_ms=picture.wait_ms)
            print(f"{path}: {path.stat().st_size} bytes")


@contextlib.contextmanager
def running_demo(directory: Path) -> Iterator[Demo]:
    """A demo after its sweep, ended when the block is left.

    Raises:
        SystemExit: it ended.
    """
    log = directory / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "demo", "--nodes", str(NODES), "--keep"],
            env=child_environment({"PYTHONUNBUFFERED": "1", "TMPDIR": os.fspath(directory)}),
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: process.poll() is not None or "Ctrl-C stops everything" in log.read_text(), "the demo's sweep")
        said = log.read_text()
        broker = re.search(r"CNI_CLEANUP_BROKER=(\S+)", said)
        flower = re.search(r"http://(.+):(.+)@127\.0\.0\.1:(\d+)/", said)
        if process.poll() is not None or broker is None or flower is None:
            sys.exit(f"the demo does not run with Flower:\n{said}")
        user, password, port = flower.groups()
        yield Demo(broker[1], Flower(port=int(port), user=user, password=password), directory)
    finally:
        process.terminate()
        process.wait()


def online(demo: Demo) -> int:
    """How many workers Flower has heard of that are there."""
    request = urllib.request.Request(f"{demo.flower.url}workers?json=1", headers={"Authorization": demo.flower.authorization})
    with urllib.request.urlopen(request, timeout=READY_WITHIN) as response:
        workers = json.load(response)["data"]
    return sum(1 for worker in workers if worker["status"])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something.

    Raises:
        SystemExit: it did not come true in time.
    """
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {READY_WITHIN:.0f} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
