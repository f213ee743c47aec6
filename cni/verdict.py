"""
The decision. One pure function: what is known of one container id (or of a file without an id) in, a verdict with its reason out.

Leaked is what nobody vetoes and a quorum proves: the runtime said Absent; or it was turned off, and both the namespaces (by a
results file) and the API said Absent. The API alone never condemns, and with everything off nothing is leaked.
"""

from typing import Literal, NamedTuple

from cni.evidence import Answer
from cni.listing import Subject

Verdict = Literal["keep", "undecided", "leaked"]
Reason = Literal[
    "foreign", "sandbox", "netns", "pod-ip", "held", "young", "unknown", "unconfirmed", "unparsable", "absent", "empty"
]


class Facts(NamedTuple):
    """What is known; of two looks the worse answer, and both must have found it old enough."""

    subject: Subject
    runtime: Answer
    netns: Answer
    api: Answer
    #: Put back by `restore`, and not released since.
    held: bool
    #: At least `--min-age` old at every look, by a clock that can be believed.
    old: bool
    #: The same file at every look that the pass demands, in a network that this pass may touch.
    confirmed: bool


class Decision(NamedTuple):
    """A verdict and why."""

    verdict: Verdict
    reason: Reason


FOREIGN = Decision("keep", "foreign")
SANDBOX = Decision("keep", "sandbox")
NETNS = Decision("keep", "netns")
POD_IP = Decision("keep", "pod-ip")
HELD = Decision("keep", "held")
YOUNG = Decision("undecided", "young")
UNKNOWN = Decision("undecided", "unknown")
UNCONFIRMED = Decision("undecided", "unconfirmed")
UNPARSABLE = Decision("undecided", "unparsable")
ABSENT = Decision("leaked", "absent")
EMPTY = Decision("leaked", "empty")


def decide(facts: Facts) -> Decision:
    """The first that holds, in the order of the report's contract."""
    if facts.subject is Subject.FOREIGN:
        return FOREIGN
    if facts.runtime is Answer.SEEN:
        return SANDBOX
    if facts.netns is Answer.SEEN:
        return NETNS
    if facts.api is Answer.SEEN:
        return POD_IP
    if facts.held:
        return HELD
    if not facts.old:
        return YOUNG
    if not _proven(facts):
        return UNKNOWN
    if not facts.confirmed:
        return UNCONFIRMED
    if facts.subject is Subject.UNFIT:
        return UNPARSABLE
    return EMPTY if facts.subject is Subject.EMPTY else ABSENT


def _proven(facts: Facts) -> bool:
    if Answer.UNKNOWN in (facts.runtime, facts.netns, facts.api):
        return False
    if facts.subject is Subject.EMPTY:
        return facts.runtime is Answer.ABSENT and facts.netns is Answer.ABSENT and facts.api is Answer.ABSENT
    if facts.runtime is Answer.ABSENT:
        return True
    return facts.runtime is Answer.OFF and facts.netns is Answer.ABSENT and facts.api is Answer.ABSENT
