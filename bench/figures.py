"""The lines that a bench prints, tab-separated: name, value with unit, goal (`-`: only for comparison), `met` or `missed`."""

from collections.abc import Iterable
from dataclasses import dataclass


class BenchFailed(Exception):
    """The bench cannot go on; the text says why."""


@dataclass(frozen=True)
class Figure:
    """One line."""

    name: str
    #: With its unit.
    value: str
    #: `-` where it is only for comparison.
    goal: str = "-"
    met: bool = True

    def line(self) -> str:
        """As it is printed."""
        return "\t".join((self.name, self.value, self.goal, "met" if self.met else "missed"))


def show(figures: Iterable[Figure]) -> int:
    """Print each as soon as it is there; how many were missed."""
    missed = 0
    for figure in figures:
        print(figure.line(), flush=True)
        missed += not figure.met
    return missed
