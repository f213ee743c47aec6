"""A test that lacks something skips at home, with the reason; in CI (CI=true) a skip is a failure."""

import os
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest


def in_ci(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a missing part is a failure here."""
    return environment.get("CI", "").lower() == "true"


def require(present: object, reason: str) -> None:
    """Skip with `reason`, which says what to install or do, unless `present` is true."""
    if not present:
        pytest.skip(reason)


def require_root() -> None:
    """Skip unless the effective user is root."""
    require(os.geteuid() == 0, "needs root")


def require_program(name: str, package: str) -> Path:
    """The program's path; skip, naming the Debian package, if it is neither on the PATH nor in an sbin."""
    system = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=system)
    if found is None:
        pytest.skip(f"{name} is missing: apt install {package}")
    return Path(found)


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"CI=true, where a skip is a failure: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and in_ci():
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.outcome == "skipped" and in_ci():
        _refuse(report)
    return report
