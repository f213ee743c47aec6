"""The steps of a pass, for whoever wants to know how long each takes; nobody needs to."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Fact = str | int | float | bool | None
"""What can be told of a step; None is left out."""


class Step(Protocol):
    """One that has begun."""

    def note(self, facts: Callable[[], Mapping[str, Fact]]) -> None:
        """Tell something of it; `facts` is called only where somebody listens."""

    def fail(self, why: str) -> None:
        """Tell that it came to nothing; an exception that leaves it tells so by itself."""


class Span(Protocol):
    """Begins a step, which ends with the block. It must not wait for anything, and never raises."""

    def __call__(self, name: str, /, **facts: Fact) -> AbstractContextManager[Step]:
        """The step of this name; those that begin in the block are parts of it."""


class _Unmeasured:
    """A step that nobody wants to know of."""

    def note(self, facts: Callable[[], Mapping[str, Fact]]) -> None:
        """Nobody listens."""

    def fail(self, why: str) -> None:
        """Nobody listens."""


_UNMEASURED = _Unmeasured()


@contextmanager
def unmeasured(name: str, /, **facts: Fact) -> Iterator[Step]:  # noqa: ARG001  # as whoever measures would have them
    """Begin a step that nobody wants to know of."""
    yield _UNMEASURED
