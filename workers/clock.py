"""Time: the two clocks, the wait between looks, and whether the ages of files can be believed (rule 4)."""

import time
from typing import Protocol

from cni.errors import CleanupError
from workers.state import State

STEP_SECONDS = 5.0
"""A wall clock that moved by more than this against the monotonic one was stepped."""


class Clock(Protocol):
    """What a pass needs of time."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, as files are stamped."""

    def monotonic(self) -> float:
        """Seconds since the node was started."""

    def boot_id(self) -> str:
        """What tells one start of the node from another."""

    def sleep(self, seconds: float) -> None:
        """Wait by the monotonic clock."""


class SystemClock:
    """The clocks of this machine."""

    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC, which Linux starts at boot."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    def boot_id(self) -> str:
        """The kernel's random id of this boot; of a kernel that hides it, a constant."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return "unknown"

    def sleep(self, seconds: float) -> None:
        """time.sleep, which sleeps by CLOCK_MONOTONIC and goes on after a signal."""
        time.sleep(seconds)


def offset_seconds(clock: Clock) -> float:
    """Wall clock minus monotonic clock: constant until somebody steps the wall clock."""
    return clock.wall_ns() / 1e9 - clock.monotonic()


def remember_clock(state: State, clock: Clock) -> float:
    """Compare the clocks with what the last pass of this boot saw, and remember them.

    Returns:
        The monotonic time from which ages count again, without the margin of `--min-age`: of the last step, or 0.0, the boot.

    Raises:
        PassAborted: the state directory cannot be written.
    """
    stepped_at = last_step(state, clock)
    state.write_json("clock.json", {"boot_id": clock.boot_id(), "offset": offset_seconds(clock), "stepped_at": stepped_at})
    return stepped_at


def last_step(state: State, clock: Clock) -> float:
    """The monotonic time of the last step of the wall clock that is known or shows now; 0.0 if there was none."""
    now = clock.monotonic()
    try:
        remembered = state.read_json("clock.json")
        if remembered is None or remembered["boot_id"] != clock.boot_id():
            return 0.0
        stepped_at = float(remembered["stepped_at"])
        moved = abs(offset_seconds(clock) - float(remembered["offset"]))
    except (CleanupError, KeyError, TypeError, ValueError, OverflowError):
        # What was remembered cannot be read: there may have been a step.
        return now
    # Written so that a NaN counts as a step too.
    unmoved = moved <= STEP_SECONDS and 0.0 <= stepped_at <= now
    return stepped_at if unmoved else now
