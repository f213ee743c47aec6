"""redbeat's scheduler, which notes its ticks; apart, since only a Beat that runs imports redbeat."""

from typing import Any

from redbeat import RedBeatScheduler  # type: ignore[import-untyped]  # it has no types

from beat import ticks


class Scheduler(RedBeatScheduler):  # type: ignore[misc]  # the same
    """As redbeat's own."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Ask for what is due; seconds until the next tick."""
        ticks.ticked()
        return float(super().tick(*args, **kwargs))
