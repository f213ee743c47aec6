"""
One pass over a node: gather, decide, wait, gather again, decide again, apply.

What touches the node comes in as arguments: `look` lists the files and asks the witnesses, `remove` takes files away.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cni.attachment import LOOPBACK
from cni.errors import PassAborted
from cni.evidence import Answer, Look
from cni.listing import Item, Listing, Network, Stamp, Subject
from cni.report import Outcome, Policy
from cni.steps import Span, unmeasured
from cni.verdict import FOREIGN, HELD, UNCONFIRMED, UNKNOWN, Decision, Facts, decide

Held = frozenset[tuple[str, str | None]]
"""Path and container id of the files that `restore` put back. The id holds all files of its sandbox, under whatever path."""

MOST_TOGETHER = 64
"""Reservations of one id that can go together: so many fit under one short hold of the plugin's lock."""


Canary = Callable[[Look], str | None]
"""Why the witnesses of a look are not to be believed; None where they are."""


class Leak(NamedTuple):
    """The files of one dead sandbox (or one empty reservation), kept or removed together; members are indexes of items."""

    decision: Decision
    reservations: tuple[int, ...]
    #: Scratch files before results: a results file is what remembers the pod.
    leftovers: tuple[int, ...]


Remove = Callable[[Sequence[Item], Sequence[Network], Iterable[Leak], Mapping[str, str]], Iterator[tuple[int, Outcome]]]
"""Takes the leaks away, given all items, the networks, and the pods by container id; tells what became of each index."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on every item of a listing, by index."""

    listing: Listing
    #: Those of the listing, some of them refused (rule 9).
    networks: Sequence[Network]
    decisions: Sequence[Decision]
    leaks: Sequence[Leak]
    pods: Mapping[str, str]
    findings: Sequence[str]


@dataclass(kw_only=True)
class Course:
    """What a pass has come to so far; the report is written from it however the pass ends."""

    looks: list[Look] = field(default_factory=list)
    judgement: Judgement | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)


def scan(
    course: Course,
    *,
    look: Callable[[Look | None], Look],
    policy: Policy,
    held: Held,
    canary: Canary,
    span: Span = unmeasured,
) -> None:
    """One look, explained. A canary that fails leaves nothing leaked.

    Raises:
        PassAborted: the directory is missing or not readable, or the canary failed.
    """
    with span("look", look=1):
        first = look(None)
        course.looks.append(first)
        alarm = None if _unknown_witness(first) else canary(first)
        with span("decide"):
            course.judgement = judge(course.looks, policy=policy, held=held, trusted=alarm is None)
    if alarm is not None:
        raise PassAborted("canary", alarm)


def clean(
    course: Course,
    *,
    look: Callable[[Look | None], Look],
    policy: Policy,
    held: Held,
    canary: Canary,
    wait: Callable[[float], None],
    remove: Remove,
    span: Span = unmeasured,
) -> None:
    """One pass: what two looks apart agree to be leaked is removed.

    Raises:
        PassAborted: for any reason of the closed set; `course` tells how far it came.
    """
    try:
        _look_and_judge(course, look=look, policy=policy, held=held, canary=canary, span=span)
        if not course.judgement or not course.judgement.leaks:
            return
        # Only the second judgement's are removed, and 65,000 of them are memory.
        course.judgement = replace(course.judgement, leaks=())
        with span("wait", seconds=policy.confirm_after):
            wait(policy.confirm_after)
        _look_and_judge(course, look=look, policy=policy, held=held, canary=canary, span=span)
    except BaseException:
        course.judgement = _unconfirmed(course.judgement)
        raise
    items, networks = course.judgement.listing.items, course.judgement.networks
    within = list(_within_limit(course, policy.max_remove))
    if policy.dry_run:
        course.outcomes.update((index, "dry-run") for leak in within for index in (*leak.reservations, *leak.leftovers))
        return
    # One span over all of it: under the plugin's lock there is none.
    with span("remove") as removal:
        for index, outcome in remove(items, networks, within, course.judgement.pods):
            course.outcomes[index] = outcome
        removal.note(lambda: Counter(course.outcomes.values()))


def _look_and_judge(
    course: Course, *, look: Callable[[Look | None], Look], policy: Policy, held: Held, canary: Canary, span: Span
) -> None:
    first = not course.looks
    with span("look", look=1 if first else 2):
        current = look(None if first else course.looks[-1])
        course.looks.append(current)
        silent = _unknown_witness(current)
        alarm = None if silent else canary(current)
        with span("decide") as deciding:
            judgement = judge(course.looks, policy=policy, held=held, trusted=alarm is None, provisional=first)
            course.judgement = judgement
            deciding.note(lambda: {"leaks": len(judgement.leaks)})
        if silent:
            raise PassAborted("witness", silent)
        if alarm:
            raise PassAborted("canary", alarm)


def _unknown_witness(look: Look) -> str | None:
    """The witnesses that could not answer for the whole node, and why; nothing is leaked then, and the canary proves nothing."""
    unknown = [f"{name} is {state}" for name, state in look.witnesses().items() if state.startswith("unknown")]
    return "; ".join(unknown) or None


def _unconfirmed(judgement: Judgement | None) -> Judgement | None:
    """What one look alone takes for leaked is not."""
    if judgement is None:
        return None
    decisions = [UNCONFIRMED if one.verdict == "leaked" else one for one in judgement.decisions]
    return replace(judgement, decisions=decisions, leaks=())


def _within_limit(course: Course, max_remove: int | None) -> Iterator[Leak]:
    """The leaks whose reservations fit into the limit; the others are marked. Leftovers without reservation count as one."""
    left = max_remove
    for leak in course.judgement.leaks if course.judgement else ():
        cost = max(1, len(leak.reservations))
        if left is not None and cost > left:
            course.outcomes.update((index, "over-limit") for index in (*leak.reservations, *leak.leftovers))
            continue
        left = None if left is None else left - cost
        yield leak


def judge(looks: Sequence[Look], *, policy: Policy, held: Held, trusted: bool = True, provisional: bool = False) -> Judgement:
    """The verdict on everything the last look listed, by what all looks know.

    `trusted` is False when the canary failed; `provisional` is True where a second look is still to come.
    """
    return _Judge(looks, policy=policy, held=held, trusted=trusted, provisional=provisional).judgement()


def _weakest(subjects: Iterable[Subject]) -> Subject:
    """What all reservations of an id together are: one that may not go keeps the others."""
    found = set(subjects)
    return next((subject for subject in (Subject.FOREIGN, Subject.UNFIT) if subject in found), Subject.SANDBOX)


def _common(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    """What all of them have; nothing where there are none."""
    every = list(sets)
    return frozenset.intersection(*every) if every else frozenset()


class _Judge:
    """What all decisions of one judgement share."""

    def __init__(self, looks: Sequence[Look], *, policy: Policy, held: Held, trusted: bool, provisional: bool) -> None:
        self.looks = looks
        self.last = looks[-1]
        self.items = self.last.listing.items
        self.steady = self.last.listing.steady
        self.held_ids = {container_id for _, container_id in held if container_id is not None}
        self.held_paths = {path for path, container_id in held if container_id is None}
        self.trusted = trusted
        # A namespace that only one look saw unnamed belongs to an ADD that was not under way at the other. At the first look of
        # two nobody can tell yet: the second decides.
        judged = () if provisional else looks
        self.unnamed = _common(look.unnamed_namespaces for look in judged)
        self.unnamed_of_others = _common(look.unnamed_namespaces_of_others for look in judged)
        # Both looks must find a file old; one threshold for both, since a file that changed between them is not confirmed.
        self.old_before_ns = min(look.now_ns for look in looks) - int(policy.min_age * 1e9)
        self.settled = all(look.settled for look in looks)
        self.networks = list(self.last.listing.networks)
        self.skipped = {network.directory for network in self.networks if network.problem == "skipped"}
        self.unread = {network.name for network in self.networks if network.is_unread}
        self.keeps_results = any(look.runtime.keeps_results for look in looks)
        self.refused: set[str] = set()
        self.findings: list[str] = [*self.last.listing.findings, *self.last.remarks()]
        self.waiting: Counter[str] = Counter()
        self.used = {item.directory for look in looks for item in self.items if item.container_id in look.runtime.sandboxes}
        self.known = {id_ for look in looks for id_ in (*look.listing.attachments, *look.runtime.sandboxes)} | self.held_ids
        self.shown_addresses = frozenset[str]().union(*(look.held_addresses for look in looks))
        self.strangers: dict[tuple[str, bool, bool], Decision] = {}

    def judgement(self) -> Judgement:
        self._refuse_networks()
        decisions: list[Decision] = [UNKNOWN] * len(self.items)
        leaks: list[Leak] = []
        for container_id, members in self._groups():
            if self._is_stranger(container_id, members):
                leak = self._judge_stranger(container_id, members[0], decisions)
            else:
                leak = self._judge_sandbox(container_id, members, decisions)
            if leak is not None:
                leaks.append(leak)
        for index, item in enumerate(self.items):
            if item.container_id is None:
                decisions[index] = decide(self._facts_without_id(index, item))
                if decisions[index].verdict == "leaked":
                    leaks.append(Leak(decisions[index], (index,), ()))
        self.findings += (
            f"{count} sandboxes without results files are undecided while {path} is there, which no results file names:"
            " an ADD is under way, another engine's container has it, or it was left behind (`lsns -t net` shows who uses it)"
            for path, count in self.waiting.items()
        )
        held = sum(1 for decision in decisions if decision is HELD)
        if held:
            self.findings.append(f"{held} files are held as restored: `cni-cleanup restore --release` lets them be judged again")
        leaks.sort(key=self._place)
        return Judgement(
            listing=self.last.listing,
            networks=self.networks,
            decisions=decisions,
            leaks=leaks,
            pods=self._pods(),
            findings=self.findings,
        )

    def _place(self, leak: Leak) -> tuple[bool, str]:
        """Where in the order: addresses before what has none, should there be a limit; then by lock, so that batches share it."""
        return not leak.reservations, "\0".join([self.items[index].directory for index in leak.reservations])

    def _groups(self) -> Iterator[tuple[str, Sequence[int]]]:
        """The files of each id. Most ids have one file: a list for each would be a tenth of the memory of a large pass."""
        firsts: dict[str, int] = {}
        more: dict[str, list[int]] = {}
        for index, item in enumerate(self.items):
            if item.container_id is None:
                continue
            first = firsts.setdefault(item.container_id, index)
            if first != index:
                more.setdefault(item.container_id, [first]).append(index)
        return ((container_id, more.get(container_id) or (first,)) for container_id, first in firsts.items())

    def _is_stranger(self, container_id: str, members: Sequence[int]) -> bool:
        """Whether this is one reservation of an id that nobody knows anything of, at an address that nobody shows."""
        if len(members) > 1 or container_id in self.known:
            return False
        item = self.items[members[0]]
        return item.kind == "reservation" and item.subject is Subject.SANDBOX and item.name not in self.shown_addresses

    def _judge_stranger(self, container_id: str, index: int, decisions: list[Decision]) -> Leak | None:
        """Strangers differ in their directory, age and steadiness only: the first of a kind is judged, and speaks for all."""
        kind = (self.items[index].directory, self._is_old(index), self._is_confirmed(index))
        if kind not in self.strangers:
            self._judge_sandbox(container_id, (index,), decisions)
            self.strangers[kind] = decisions[index]
        else:
            decisions[index] = self.strangers[kind]
            self._count_waiting(container_id, (index,), decisions[index])
        return Leak(decisions[index], (index,), ()) if decisions[index].verdict == "leaked" else None

    def _count_waiting(self, container_id: str, members: Sequence[int], decision: Decision) -> None:
        if decision is UNKNOWN and container_id not in self.last.listing.attachments and (blocking := self._unnamed_for(members)):
            self.waiting[min(blocking)] += 1

    def _unnamed_for(self, members: Sequence[int]) -> frozenset[str]:
        """The namespaces that may belong to an id without results files.

        Also other engines', in a network that is not known to be the runtime's own.
        """
        if all(self.items[index].directory in self.used for index in members):
            return self.unnamed
        return self.unnamed | self.unnamed_of_others

    def _judge_sandbox(self, container_id: str, members: Sequence[int], decisions: list[Decision]) -> Leak | None:
        """Decide one id: its reservations together, its leftovers with them unless they are not ours to take."""
        subjects = {index: self._subject(container_id, index, members) for index in members}
        facts = self._facts(container_id, members, [index for index in members if subjects[index] is Subject.SANDBOX])
        reservations = [index for index in members if self.items[index].kind == "reservation"]
        together = decide(facts._replace(subject=_weakest(subjects[index] for index in reservations)))
        if together.verdict == "leaked" and self._cannot_go_together(container_id, members, reservations):
            together = UNKNOWN
        decisions_of = {index: decide(facts._replace(subject=subjects[index])) for index in members}
        leftovers = [index for index in members if index not in reservations and decisions_of[index].verdict == "leaked"]
        decisions_of |= dict.fromkeys(reservations, together)
        if reservations and together.verdict != "leaked":
            decisions_of |= dict.fromkeys(leftovers, together)
            leftovers = []
        elif leftovers and self._may_be_reserved_elsewhere(container_id, members):
            decisions_of |= dict.fromkeys(leftovers, UNKNOWN)
            leftovers = []
        for index, decision in decisions_of.items():
            decisions[index] = decision
        if together is not FOREIGN:
            self._explain(container_id, facts, reservations)
        self._count_waiting(container_id, members, together)
        taken = reservations if together.verdict == "leaked" else []
        if not taken and not leftovers:
            return None
        leftovers.sort(key=lambda index: self.items[index].kind == "result")
        return Leak(together, tuple(taken), tuple(leftovers))

    def _cannot_go_together(self, container_id: str, members: Sequence[int], reservations: Sequence[int]) -> bool:
        """Whether some reservation of this id could not be removed with the others (rule 6)."""
        if len(reservations) > MOST_TOGETHER:
            self.findings.append(f"{container_id} has {len(reservations)} reservations, more than can go together: they stay")
            return True
        return bool(reservations) and not self._networks_of(container_id, members).isdisjoint(self.unread)

    def _may_be_reserved_elsewhere(self, container_id: str, members: Sequence[int]) -> bool:
        """Whether a reservation of this id may stand where this pass did not look, or may not touch anything."""
        clean = {network.name for network in self.networks if network.problem is None}
        return bool(self.unread) or not self._networks_of(container_id, members) <= clean

    def _networks_of(self, container_id: str, members: Sequence[int]) -> set[str]:
        """The networks that have, or had, an address for this id, as its results files tell.

        One that only calls other plugins, as Multus' own, has none itself: its delegates have results files of their own.
        """
        attachments = self.last.listing.attachments.get(container_id, ())
        meta = {one.network for one in attachments if one.config is not None and one.config.is_meta}
        results = (self.items[index] for index in members if self.items[index].kind == "result")
        named = {item.network for item in results if item.subject is Subject.SANDBOX and item.network is not None}
        return named - meta - {LOOPBACK}

    def _subject(self, container_id: str, index: int, members: Sequence[int]) -> Subject:
        item = self.items[index]
        if item.subject is not Subject.SANDBOX:
            return item.subject
        if self._is_another_engines(container_id):
            return Subject.FOREIGN
        if item.kind != "reservation" and self.keeps_results:
            return Subject.FOREIGN
        if item.kind == "result" and item.network == LOOPBACK:
            # Every sandbox of containerd has one, whatever hands out its addresses.
            anchored = any(
                self.items[other].subject is Subject.SANDBOX and self.items[other].network != LOOPBACK for other in members
            )
            return Subject.SANDBOX if anchored else Subject.FOREIGN
        return Subject.SANDBOX

    def _is_another_engines(self, container_id: str) -> bool:
        return any(
            attachment.readable and not attachment.by_cri
            for look in self.looks
            for attachment in look.listing.attachments.get(container_id, ())
        )

    def _facts(self, container_id: str, members: Sequence[int], judged: Sequence[int]) -> Facts:
        return Facts(
            subject=Subject.SANDBOX,
            runtime=self._runtime_of(container_id, members),
            netns=max(look.netns_of(container_id, self._unnamed_for(members)) for look in self.looks),
            api=self._api_of(container_id, members),
            held=container_id in self.held_ids,
            old=all(self._is_old(index) for index in members),
            confirmed=all(self._is_confirmed(index) for index in judged),
        )

    def _runtime_of(self, container_id: str, members: Sequence[int]) -> Answer:
        answer = max(look.runtime.of(container_id) for look in self.looks)
        doubted = not self.trusted or (self.refused and any(self.items[index].directory in self.refused for index in members))
        return max(answer, Answer.UNKNOWN) if doubted else answer

    def _api_of(self, container_id: str, members: Sequence[int]) -> Answer:
        addresses = [self.items[index].name for index in members if self.items[index].kind == "reservation"]
        if not addresses:
            attachments = self.last.listing.attachments.get(container_id, ())
            addresses = [address for attachment in attachments for address in attachment.addresses]
        return max(look.api_of(addresses) for look in self.looks)

    def _facts_without_id(self, index: int, item: Item) -> Facts:
        is_empty = item.subject is Subject.EMPTY
        addresses = [item.name] if item.ip else []
        runtime = netns = Answer.ABSENT
        if is_empty:
            runtime = max(look.runtime_of_address(item.name) for look in self.looks)
            netns = max(look.netns_of_address(item.name) for look in self.looks)
            if not self.trusted or item.directory in self.refused:
                runtime = max(runtime, Answer.UNKNOWN)
        return Facts(
            subject=item.subject,
            runtime=runtime,
            netns=netns,
            api=max(look.api_of(addresses) for look in self.looks),
            held=bool(self.held_paths) and item.path in self.held_paths,
            old=self._is_old(index),
            confirmed=self._is_confirmed(index),
        )

    def _is_old(self, index: int) -> bool:
        stamp = self.items[index].stamp
        if stamp is None:
            return True
        return self.settled and Stamp.changed_ns(stamp) <= self.old_before_ns

    def _is_confirmed(self, index: int) -> bool:
        return (self.steady is None or self.steady[index]) and self.items[index].directory not in self.skipped

    def _refuse_networks(self) -> None:
        for index, network in enumerate(self.networks):
            if network.problem is not None:
                continue
            why = next((why for look in self.looks if (why := look.refuses(network, self._reservations_of(network)))), None)
            if why is not None:
                self.networks[index] = replace(network, problem="refused")
                self.refused.add(network.directory)
                self.findings.append(why)

    def _reservations_of(self, network: Network) -> Iterator[Item]:
        return (item for item in self.items if item.kind == "reservation" and item.directory == network.directory)

    def _explain(self, container_id: str, facts: Facts, reservations: list[int]) -> None:
        """Tell what keeps a file and looks like a leak: the operator can end it, this program must not."""
        if not reservations:
            return
        where = ", ".join(self.items[index].path for index in reservations)
        sandbox = self.last.runtime.sandboxes.get(container_id)
        if sandbox is not None and not sandbox.ready and facts.old:
            self.findings.append(
                f"{where} is kept for sandbox {container_id[:13]} of {sandbox.pod}, which is NOTREADY:"
                f" if it stays, its CNI DEL fails (crictl stopp {container_id[:13]} tells why)"
            )
        elif facts.runtime is Answer.ABSENT and facts.netns is Answer.SEEN and facts.old:
            attachments = self.last.listing.attachments.get(container_id, ())
            alive = next((path for one in attachments for path in one.namespaces if self.last.is_alive(path)), None)
            if alive is not None:
                self.findings.append(
                    f"{where} is kept: the runtime does not know its sandbox, but its namespace {alive} is still there and may"
                    " answer for the address; once no other runtime or engine of this node knows the container"
                    f" {container_id[:13]}, and none is being made, `umount {alive}; rm {alive}` ends it"
                )

    def _pods(self) -> dict[str, str]:
        known = {*self.last.listing.attachments, *self.last.runtime.sandboxes}
        return {id_: pod for id_ in known if (pod := self.last.pod_of(id_)) is not None}
