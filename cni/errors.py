"""
What can go wrong, as a tree.

    CleanupError            anything this program raises on purpose; its text is one line for the operator
    +-- UsageError          the request itself is wrong (exit 2)
    +-- PassAborted         the pass ended before it could do its work; carries a reason of the closed set (exit 1)
"""

from typing import Literal

AbortReason = Literal["busy", "hold", "canary", "clock", "journal", "no-directory", "permission", "witness", "internal"]


class CleanupError(Exception):
    """Something that an operator can understand and mend; the message is one line."""


class UsageError(CleanupError):
    """The request is wrong: nothing was done."""


class PassAborted(CleanupError):
    """The pass ended early. `reason` is one of the closed set of the report, the message a sentence."""

    def __init__(self, reason: AbortReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: AbortReason = reason
        self.detail = detail
