"""
What the page of a sweep shows: pure preparation, a snapshot of the ledger and its account in, plain values out.

Every list has an end, and says how much there is beyond it: the page must open on a phone also for 5,000 nodes. Every text is cut
and has nothing in it that a viewer might take for a command; that it is no HTML either is the template's to see to.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

from cli.html.reading import Judged, Usage, findings, has, judged, number, text, usages, workloads
from cli.html.words import OUTCOMES, REASONS, STATES
from tasks.account import NODE_STATES
from tasks.ledger import Snapshot

MOST_NODES = 5000
"""Rows of nodes, those that need a person first."""

MOST_OPEN = 60
"""Nodes that are in sight without opening anything."""

MOST_USED = 20
"""Networks of single nodes, the fullest."""

MOST_NETWORKS = 40
"""Networks by name over the fleet."""

MOST_GROUPS = 40
"""Reasons, findings and ways to be judged; a common one is one line."""

MOST_WORKLOADS = 20

MOST_NAMED = 8
"""Nodes that a line names; the others are counted."""

FULL = 80
"""Percent from which on a network is near its end: the node makes a pass of its own accord, unless told otherwise."""

_NAME = 120
_SHORT = 40
_WHY_IN_SIGHT = 240
_WHY_FOLDED = 100
_SENTENCE = 500

_URGENCY = {state: place for place, state in enumerate((*STATES, "cleaned"))}
_NEEDY = ("failed", "missed")
_NUMBERS = ("reservations", "keep", "undecided", "leaked", "removed")

T = TypeVar("T")

WIDTH = 1000
"""Units of a whole bar."""

_SEEN = 4.0
"""Units that can be seen."""


class Some(NamedTuple, Generic[T]):
    """The first of many, and how much there is beyond them."""

    shown: tuple[T, ...]
    more: int


class Piece(NamedTuple):
    """A part of a bar, in units of its width."""

    kind: str
    start: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A node; its numbers are None until it has reported a pass that looked."""

    node: str
    state: str
    word: str
    why: str
    numbers: tuple[int | None, ...]
    took: str


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Nodes that have something in common, and what."""

    text: str
    nodes: int
    named: tuple[str, ...]
    state: str = ""

    @property
    def more(self) -> int:
        """Nodes that are not named."""
        return self.nodes - len(self.named)


@dataclass(frozen=True, kw_only=True)
class Use:
    """How full a network is after the sweep, on one node (`nodes` is 1) or on all that know its capacity."""

    network: str
    node: str
    nodes: int
    #: Reservations that were left, and those that fit.
    left: int
    capacity: int | None
    percent: int | None
    bar: tuple[Piece, ...]
    keep: int = 0
    undecided: int = 0
    leaked: int = 0
    removed: int = 0

    @property
    def share(self) -> str:
        """The percentage in words: little is not nothing."""
        if self.capacity and 0 < 100 * self.left < self.capacity:
            return "< 1 %"
        return f"{self.percent} %"

    @property
    def is_full(self) -> bool:
        """Whether it is near its end."""
        return self.percent is not None and self.percent >= FULL


@dataclass(frozen=True, kw_only=True)
class Amount:
    """So much of something, in words, with a bar that compares it with its neighbours."""

    text: str
    slug: str
    detail: str
    amount: int
    bar: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files that met the same end."""

    title: str
    kind: str
    files: int
    rows: tuple[Amount, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number that somebody looks for first."""

    name: str
    value: str
    detail: str
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the template puts on the page."""

    title: str
    #: `good`, `bad` or `busy`.
    tone: str
    headline: str
    remarks: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    tiles: tuple[Tile, ...]
    states: tuple[tuple[str, str, int], ...]
    states_bar: tuple[Piece, ...]
    causes: Some[Cause]
    left_out: Some[Cause]
    networks: Some[Use]
    fullest: Some[Use]
    #: Of the fullest that is not shown.
    next_percent: int | None
    #: Networks of single nodes that are `FULL` or more, and those of which it cannot be told.
    full: int
    unknown_capacity: int
    groups: tuple[Group, ...]
    files: int
    #: Nodes whose workers do not tell about files.
    without_counts: int
    workloads: Some[Amount]
    findings: Some[Cause]
    open_rows: tuple[Row, ...]
    folded_rows: tuple[Row, ...]
    folded: str
    more_rows: int


def page(sweep: Snapshot, account: Mapping[str, Any], *, now: float) -> Page:
    """The page of a sweep, as it stood `now`, in seconds since 1970."""
    rows = sorted(account["nodes"], key=lambda row: (_URGENCY[row["state"]], row["node"]))
    # What a pass counted that had not looked, or whose report the account does not understand, says nothing.
    looked = {row["node"]: sweep.reports[row["node"]] for row in rows if row["reservations"] is not None}
    sums = {name: sum(number(row[name]) or 0 for row in rows) for name in _NUMBERS}
    used = [(node, use) for node, report in looked.items() for use in usages(report)]
    fullest, networks = _fullest(used), _by_network(used)
    groups, files = _groups(looked)
    causes = _causes(rows)
    left_out = _same((text(why, _SENTENCE), node) for node, why in sorted(account["skipped"].items()))
    found = _same((text(one, _SENTENCE), node) for node, report in sorted(sweep.reports.items()) for one in findings(report))
    in_sight = _in_sight(rows)
    shown, folded = rows[:in_sight], rows[in_sight:MOST_NODES]
    return Page(
        title=f"Sweep of {_moment(sweep.facts.started)}",
        tone=_tone(account),
        headline=_headline(account),
        remarks=tuple(_remarks(account, sums, now=now)),
        facts=tuple(_facts(sweep, account, now=now)),
        tiles=_tiles(account, sums, fullest),
        states=tuple((name, _word(name, dry_run=account["dry_run"]), account[name]) for name in NODE_STATES if account[name]),
        states_bar=_bar([(name, account[name]) for name in NODE_STATES]),
        causes=_some_causes(causes),
        left_out=_some_causes(left_out),
        networks=_some(networks, MOST_NETWORKS),
        fullest=_some(fullest, MOST_USED),
        next_percent=_at_most(fullest[MOST_USED]) if len(fullest) > MOST_USED else None,
        full=sum(1 for use in fullest if use.is_full),
        unknown_capacity=len(used) - len(fullest),
        groups=groups,
        files=files,
        without_counts=sum(1 for report in looked.values() if not has(report, "counts")),
        workloads=_some(_workloads(looked), MOST_WORKLOADS),
        findings=_some(found, MOST_GROUPS),
        open_rows=tuple(_row(row, _WHY_IN_SIGHT, dry_run=account["dry_run"]) for row in shown),
        folded_rows=tuple(_row(row, _WHY_FOLDED, dry_run=account["dry_run"]) for row in folded),
        folded=_how_many(folded, "more nodes" if shown else "nodes", dry_run=account["dry_run"]),
        more_rows=max(0, len(rows) - MOST_NODES),
    )


def count(amount: int, what: str) -> str:
    """`1 node`, `5,000 nodes`."""
    return f"{amount:,} {what}" if amount == 1 else f"{amount:,} {what}s"


# The head


def _tone(account: Mapping[str, Any]) -> str:
    if account["state"] == "running":
        return "busy"
    return "good" if account["state"] == "complete" and not _unfinished(account) else "bad"


def _unfinished(account: Mapping[str, Any]) -> int:
    return sum(account[name] for name in NODE_STATES if name != "cleaned")


def _headline(account: Mapping[str, Any]) -> str:
    nodes, cleaned, needy = account["expected"], account["cleaned"], sum(account[name] for name in _NEEDY)
    done = _word("cleaned", dry_run=account["dry_run"])
    if account["state"] == "running":
        answered = nodes - account["waiting"]
        return (
            f"Under way: {answered:,} of {count(nodes, 'node')} have answered"
            if nodes
            else "Under way: its nodes are being found"
        )
    if account["error"]:
        return "The sweep went no further"
    if not account["nodes"]:
        return "No node was asked"
    if needy:
        return f"{count(needy, 'node')} of {nodes:,} {'needs' if needy == 1 else 'need'} a person"
    if account["discarded"]:
        return f"{cleaned:,} of {count(nodes, 'node')} {done}; the others came back too late"
    if account["state"] != "complete":
        return "It is not known which nodes were asked"
    return f"All {count(cleaned, 'node')} {done}" if cleaned > 1 else f"The node was {done}"


def _remarks(account: Mapping[str, Any], sums: Mapping[str, int], *, now: float) -> Iterable[str]:
    """What else a reader must know before any number, in sentences."""
    leaked, removed = sums["leaked"], sums["removed"]
    some = any(row["reservations"] is not None for row in account["nodes"])
    if account["dry_run"]:
        yield f"This was a dry run: {count(leaked, 'leaked reservation')} found, none removed."
    elif leaked:
        yield f"{count(leaked, 'leaked reservation')} found, {removed:,} removed."
    elif some:
        yield "No leaked reservation was found by the nodes that looked."
    if account["state"] == "running":
        yield f"The sweep still runs: the numbers are those of {_moment(now)}, and grow."
    if account["error"]:
        yield f"Why it went no further: {text(account['error'], _SENTENCE)}"
    if account["stopped"]:
        yield f"It was stopped {text(account['stopped'], 40)}: `cni-cleanup job --resume` lets it go on."
    if account["without_worker"]:
        yield f"{count(account['without_worker'], 'node')} without a worker: is its pod running there?"


def _facts(sweep: Snapshot, account: Mapping[str, Any], *, now: float) -> Iterable[tuple[str, str]]:
    facts = sweep.facts
    yield "Sweep", text(account["sweep_id"], _NAME)
    yield "State", account["state"] + (", a dry run" if account["dry_run"] else "") + (", stopped" if account["stopped"] else "")
    yield "Began", _moment(facts.started)
    last = max((at for report in sweep.reports.values() if (at := _finished(report)) is not None), default=None)
    if last is not None and last >= facts.started:
        yield "Last pass ended", f"{_moment(last)}, {_duration(last - facts.started)} later"
    if facts.selector:
        yield "Only nodes with", text(facts.selector, _SENTENCE)
    yield "This page is of", _moment(now)


def _finished(report: object) -> float | None:
    value = report.get("finished") if isinstance(report, dict) else None
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) and value.endswith("Z") else None
    except (ValueError, OverflowError):
        return None


def _tiles(account: Mapping[str, Any], sums: Mapping[str, int], fullest: Sequence[Use]) -> tuple[Tile, ...]:
    if not account["nodes"]:
        return ()
    needy = sum(account[name] for name in _NEEDY)
    done = _word("cleaned", dry_run=account["dry_run"])
    others = ", ".join(f"{account[name]:,} {name}" for name in NODE_STATES if name != "cleaned" and account[name])
    left = sums["leaked"] - sums["removed"]
    of_all = f"of {count(sums['reservations'], 'reservation')}"
    if account["dry_run"]:
        became = Tile(name="Removed", value="0", detail="a dry run removes nothing")
    else:
        rest = f"{left:,} not removed" if left else "all of them" if sums["leaked"] else "nothing to remove"
        became = Tile(name="Removed", value=f"{sums['removed']:,}", detail=rest)
    tiles = [
        Tile(name=f"Nodes {done}", value=f"{account['cleaned']:,}", detail=f"of {account['expected']:,}"),
        Tile(name="Need a person", value=f"{needy:,}", detail=others or "nobody", tone="bad" if needy else ""),
        Tile(name="Leaked", value=f"{sums['leaked']:,}", detail=of_all),
        became,
    ]
    if fullest:
        most = fullest[0]
        tone = "bad" if most.is_full else ""
        where = f"{text(most.network, _SHORT)} on {text(most.node, _SHORT)}"
        when = "so far" if account["state"] == "running" else "afterwards"
        tiles.append(Tile(name=f"Fullest {when}", value=most.share, detail=where, tone=tone))
    return tuple(tiles)


# Nodes


def _word(state: str, *, dry_run: bool) -> str:
    return "looked at" if dry_run and state == "cleaned" else state


def _in_sight(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many nodes are not folded away: of many only those that are not cleaned."""
    if len(rows) <= MOST_OPEN:
        return len(rows)
    return min(MOST_OPEN, sum(1 for row in rows if row["state"] != "cleaned"))


def _row(row: Mapping[str, Any], most: int, *, dry_run: bool) -> Row:
    return Row(
        node=text(row["node"], _NAME),
        state=row["state"],
        word=_word(row["state"], dry_run=dry_run),
        why="" if row["why"] is None else text(row["why"], most),
        numbers=tuple(number(row[name]) for name in _NUMBERS),
        took="" if row["seconds"] is None else _duration(row["seconds"]),
    )


def _causes(rows: Sequence[Mapping[str, Any]]) -> list[Cause]:
    """What the nodes that are not cleaned have in common: the most urgent first, of those what most nodes have."""
    found: list[Cause] = []
    for state in STATES:
        pairs = ((text(row["why"] or "nothing is known", _SENTENCE), row["node"]) for row in rows if row["state"] == state)
        found += [replace(one, state=state) for one in _same(pairs)]
    return found


def _how_many(rows: Sequence[Mapping[str, Any]], what: str, *, dry_run: bool) -> str:
    """`4,400 nodes: 4,400 cleaned`, for what opens them."""
    states = Counter(row["state"] for row in rows)
    told = [f"{states[name]:,} {_word(name, dry_run=dry_run)}" for name in sorted(states, key=_URGENCY.__getitem__)]
    return f"{len(rows):,} {what}: {', '.join(told)}"


def _same(pairs: Iterable[tuple[str, str]]) -> list[Cause]:
    """The nodes of each text, what most nodes have first."""
    nodes: dict[str, list[str]] = defaultdict(list)
    for what, node in pairs:
        nodes[what].append(node)
    ordered = sorted(nodes.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return [Cause(text=what, nodes=len(of), named=tuple(text(one, _NAME) for one in of[:MOST_NAMED])) for what, of in ordered]


# Networks


def _fullest(used: Iterable[tuple[str, Usage]]) -> list[Use]:
    """Each network of each node that knows its capacity, the fullest first."""
    found = [_use([use], node=node) for node, use in used if use.capacity]
    return sorted(found, key=lambda use: (-(use.left / (use.capacity or 1)), use.node, use.network))


def _at_most(use: Use) -> int:
    """A percentage that it is not above."""
    return math.ceil(100 * use.left / (use.capacity or 1))


def _by_network(used: Iterable[tuple[str, Usage]]) -> list[Use]:
    """Each network over all nodes, the one with most reservations first."""
    by_name: dict[str, list[Usage]] = defaultdict(list)
    for _, use in used:
        by_name[use.network].append(use)
    found = [_use(uses, node="") for uses in by_name.values()]
    return sorted(found, key=lambda use: (-use.left, use.network))


def _use(uses: Sequence[Usage], *, node: str) -> Use:
    keep, undecided, leaked, removed = (sum(getattr(use, name) for use in uses) for name in _NUMBERS[1:])
    # A share of all reservations in a part of the capacity would be none.
    known = [use for use in uses if use.capacity]
    capacity = sum(use.capacity or 0 for use in known) if known else None
    left = sum(max(0, use.reservations - use.removed) for use in (known or uses))
    return Use(
        network=text(uses[0].network, _NAME),
        node=text(node, _NAME),
        nodes=len(uses),
        left=left,
        capacity=capacity,
        percent=round(100 * left / capacity) if capacity else None,
        bar=_usage_bar(known, capacity) if capacity else (),
        keep=keep,
        undecided=undecided,
        leaked=leaked,
        removed=removed,
    )


def _usage_bar(uses: Sequence[Usage], capacity: int) -> tuple[Piece, ...]:
    """What the addresses are used for; more of them than the capacity make a full bar."""
    reservations, removed = (sum(getattr(use, name) for use in uses) for name in ("reservations", "removed"))
    left = max(0, reservations - removed)
    leaked = min(left, sum(max(0, use.leaked - use.removed) for use in uses))
    undecided = min(left - leaked, sum(use.undecided for use in uses))
    parts = [("keep", left - leaked - undecided), ("undecided", undecided), ("leaked", leaked), ("removed", reservations - left)]
    return _bar(parts, whole=max(capacity, reservations))


# Files


def _groups(reports: Mapping[str, object]) -> tuple[tuple[Group, ...], int]:
    """Every file by what became of it and why, and how many there are."""
    files: Counter[Judged] = Counter()
    for report in reports.values():
        for how, amount in judged(report):
            files[how] += amount
    by_group: dict[str, Counter[Judged]] = defaultdict(Counter)
    for how, amount in files.items():
        by_group[_group_of(how)][how] += amount
    titles = {
        "removed": "Removed: proven dead",
        "leaked": "Leaked, and not removed",
        "keep": "Kept: somebody answers for them",
        "undecided": "Undecided, and therefore kept",
        "other": "What only a newer version knows",
    }
    groups = []
    for kind, title in titles.items():
        rows = by_group[kind].most_common()
        if rows:
            shown = tuple(_amount(how, amount, rows[0][1]) for how, amount in rows[:MOST_GROUPS])
            groups.append(Group(title=title, kind=kind, files=by_group[kind].total(), rows=shown))
    return tuple(groups), files.total()


def _group_of(how: Judged) -> str:
    if how.verdict == "leaked":
        return "removed" if how.outcome == "removed" else "leaked"
    return how.verdict if how.verdict in ("keep", "undecided") else "other"


def _amount(how: Judged, files: int, most: int) -> Amount:
    verdict, reason = text(how.verdict, _NAME), text(how.reason, _NAME)
    outcome = "" if how.outcome in (None, "removed") else OUTCOMES.get(str(how.outcome), text(how.outcome, _NAME))
    bar = _share(_group_of(how), files, most)
    return Amount(text=REASONS.get(how.reason, reason), slug=f"{verdict}, {reason}", detail=outcome, amount=files, bar=bar)


def _workloads(reports: Mapping[str, object]) -> list[Amount]:
    """What leaked most sandboxes, over all nodes."""
    leaked: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for report in reports.values():
        for workload, amount in workloads(report):
            leaked[workload] += amount
            nodes[workload] += 1
    ordered = sorted(leaked.items(), key=lambda entry: (-entry[1], entry[0]))
    most = ordered[0][1] if ordered else 0
    return [
        Amount(
            text=text(workload, _NAME),
            slug="",
            detail=f"on {count(nodes[workload], 'node')}",
            amount=amount,
            bar=_share("leaked", amount, most),
        )
        for workload, amount in ordered
    ]


# Forms


def _some(all_of_them: Sequence[T], most: int) -> Some[T]:
    return Some(tuple(all_of_them[:most]), max(0, len(all_of_them) - most))


def _some_causes(causes: Sequence[Cause]) -> Some[Cause]:
    """What is beyond them is counted in nodes."""
    return Some(tuple(causes[:MOST_GROUPS]), sum(cause.nodes for cause in causes[MOST_GROUPS:]))


def _bar(parts: Sequence[tuple[str, int]], *, whole: int | None = None) -> tuple[Piece, ...]:
    """The parts side by side, in units of the bar's width; the whole is their sum unless it is more.

    The smallest part can still be seen.
    """
    whole = sum(amount for _, amount in parts) if whole is None else whole
    some = [(kind, amount) for kind, amount in parts if amount > 0]
    widths = [max(_SEEN, WIDTH * amount / whole) for _, amount in some]
    if (excess := sum(widths) - WIDTH) > 0:
        # What was given to the small ones is taken from the largest.
        widths[widths.index(max(widths))] -= excess
    starts = itertools.accumulate(widths, initial=0.0)
    return tuple(Piece(kind, round(at, 1), round(width, 1)) for (kind, _), at, width in zip(some, starts, widths, strict=False))


def _share(kind: str, amount: int, most: int) -> tuple[Piece, ...]:
    """One part of the most that there is; the smallest can still be seen."""
    return (Piece(kind, 0, max(_SEEN, round(WIDTH * amount / most, 1))),)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a %d %b %Y, %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
