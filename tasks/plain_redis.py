"""redis-py without OpenTelemetry, which it imports wherever it is installed, for metrics that nobody here asks it for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let an import of `package` fail in the block, unless it has been imported before."""
    # None is how the import system writes down what there is not.
    hides = package not in sys.modules
    if hides:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hides:
            del sys.modules[package]


# 3 MiB of every process for ever, whether it is traced or not. It never tries again: it remembers that there is none.
with _hidden("opentelemetry"):
    import redis  # noqa: F401
