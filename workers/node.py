"""The composition root of a node: settings in, one scan or one pass, a report out. No Celery here."""

import contextlib
import gc
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from cni import cleaning
from cni.cleaning import Course, Leak
from cni.errors import CleanupError, PassAborted, UsageError
from cni.evidence import ApiEvidence, Look, NamespaceEvidence, RuntimeEvidence
from cni.listing import Item, Listing, Network, Problem, Subject
from cni.report import Outcome, Report, rfc3339
from cni.settings import Settings
from cni.steps import Fact, Span, Step
from cni.verdict import Verdict
from workers import logs, reports, tracing
from workers.clock import STEP_SECONDS, Clock, SystemClock, last_step, offset_seconds, remember_clock
from workers.disk import list_node
from workers.journal import Journal
from workers.netns import ask_namespaces
from workers.paths import Root, layout
from workers.removal import Remover
from workers.state import State

_log = logging.getLogger(__name__)

CRIO = ("/run/crio", "/etc/crio")
"""What a node with CRI-O has."""

Observe = Callable[[str], None]
"""Told the name of each step of a pass as it is reached. At `locked` the plugin's lock is held: it must not wait for anything."""


def _unobserved(step: str) -> None:
    """Nobody watches."""


def _never() -> bool:
    """Nobody can stop it but by the file `hold`."""
    return False


def scan(settings: Settings, *, clock: Clock | None = None, span: Span = tracing.span) -> Report:
    """Read and explain on one look; nothing is written anywhere.

    Raises:
        UsageError: the settings contradict each other or name what is not there.
    """
    clock = clock or SystemClock()
    with span("scan") as whole:
        node = _Node(settings, clock, _unobserved, span=span)
        course = Course()
        node.tell_hold()
        with _uncollected(), node.catching_aborts():
            cleaning.scan(
                course,
                look=node.look(settled_since=lambda: last_step(node.state, clock)),
                policy=node.policy,
                held=node.state.held(),
                canary=node.canary,
                span=span,
            )
        return _told(whole, node.report(course))


def clean(
    settings: Settings,
    *,
    sweep_id: str | None = None,
    dry_run: bool = False,
    clock: Clock | None = None,
    observe: Observe = _unobserved,
    is_stopped: Callable[[], bool] = _never,
    span: Span = tracing.span,
) -> Report:
    """One pass over this node. However it ends, the report tells, and is written to the state directory with the totals.

    `dry_run` turns removal off for this pass; it cannot turn it on. `is_stopped` is asked before each batch, as the file `hold`
    is looked for: it must not wait for anything.

    Raises:
        UsageError: the settings contradict each other, or name what is not there; nothing was done.
    """
    clock = clock or SystemClock()
    with span("pass") as whole:
        node = _Node(settings, clock, observe, sweep_id=sweep_id, dry_run=dry_run, is_stopped=is_stopped, span=span)
        if settings.is_offline and node.root.is_live and not node.policy.dry_run:
            raise UsageError(
                "witness files are evidence about another moment, and this is a running node: use them with scan, --dry-run, or"
                " the --root of a copied tree"
            )
        course = Course()
        about = logs.about(sweep_id=sweep_id, pass_id=node.pass_id)
        with about, _uncollected(), node.catching_aborts(), node.state.pass_lock():
            with node.catching_aborts():
                _log.info("a pass begins%s", ", a dry run" if node.policy.dry_run else "", extra={"action": "pass_begun"})
                stepped_at = remember_clock(node.state, clock)
                node.refuse_hold()
                node.tell_hold()
                cleaning.clean(
                    course,
                    look=node.look(settled_since=lambda: stepped_at),
                    policy=node.policy,
                    held=node.state.held(),
                    canary=node.canary,
                    wait=node.wait,
                    remove=node.remove,
                    span=span,
                )
            node.write(node.report(course))
            observe("reported")
        return _told(whole, node.written or node.report(course))


def _told(whole: Step, report: Report) -> Report:
    """The report, once the span of the whole has its facts."""
    whole.note(lambda: _facts(report))
    if report.aborted is not None:
        whole.fail(f"{report.aborted.reason}: {report.aborted.detail}")
    return report


def _facts(report: Report) -> dict[str, Fact]:
    """What stands in a report, in few words."""
    verdicts, outcomes = Counter[str](), Counter[str]()
    for row in report.count_rows:
        verdicts[row["verdict"]] += row["files"]
        outcomes[row["outcome"]] += row["files"]
    return {
        "node": report.node,
        "pass_id": report.pass_id,
        "sweep_id": report.sweep_id,
        "dry_run": report.policy.dry_run,
        "aborted": None if report.aborted is None else report.aborted.reason,
        "files": len(report.items),
        **{verdict: verdicts[verdict] for verdict in get_args(Verdict)},
        "removed": outcomes["removed"],
        "failed": outcomes["failed"],
        "lock_wait_seconds": report.lock_wait,
        **{f"witness.{name}": state for name, state in report.witnesses.items()},
    }


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Do without Python's search for cycles: a tenth of a large pass is spent in it, and a pass makes none to speak of."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Node:
    """The parts of one scan or pass, wired."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        observe: Observe,
        *,
        span: Span,
        sweep_id: str | None = None,
        dry_run: bool = False,
        is_stopped: Callable[[], bool] = _never,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.observe = observe
        self.span = span
        self.sweep_id = sweep_id
        self.is_stopped = is_stopped
        self.policy = settings.policy(dry_run=dry_run)
        self.root = Root(settings.root)
        self.state = State(settings.state_dir)
        self.started_ns = clock.wall_ns()
        # The journal's files stand in the order of the passes by their names.
        self.pass_id = f"{re.sub('[-:.Z]', '', rfc3339(self.started_ns))}-{secrets.token_hex(4)}"
        self.aborted: PassAborted | None = None
        self.findings: list[str] = []
        #: By directory of a network, what stood against removing there.
        self.problems: dict[str, Problem] = {}
        #: Seconds that the removal waited for the plugin's locks.
        self.lock_wait = 0.0
        #: The report as it is in the state directory.
        self.written: Report | None = None
        self._looked = False
        self._refuse_nonsense()
        self._ask_files()

    def _refuse_nonsense(self) -> None:
        if not os.path.isdir(self.root.path):
            raise UsageError(f"--root {self.root.path} is no directory")
        try:
            inside = f"{os.path.realpath(self.root.real(self.settings.cnifiles))}/"
        except OSError as error:
            raise UsageError(f"--cnifiles {self.settings.cnifiles}: {error}") from error
        if f"{os.path.realpath(self.state.directory)}/".startswith(inside):
            raise UsageError(
                f"--state-dir {self.state.directory} lies in --cnifiles, where host-local would read it: name another"
            )

    @contextlib.contextmanager
    def catching_aborts(self) -> Iterator[None]:
        """What ends a pass early goes into its report; so does what nobody foresaw, since a pass must not end without one."""
        try:
            yield
        except UsageError:
            raise
        except PassAborted as aborted:
            self.aborted = aborted
        except Exception as error:  # noqa: BLE001  # whatever it is, the operator gets a report and nothing more is removed
            _log.exception("the pass failed", extra={"action": "pass_failed", "pass_id": self.pass_id})
            self.aborted = PassAborted("internal", f"{type(error).__name__}: {error}")

    @property
    def _is_copy(self) -> bool:
        """Whether this is a tree at rest, to which no clock applies. Who asks a live runtime or API looks at a running node."""
        return self.settings.is_offline and not self.settings.asks_live_witness and not self.root.may_be_live

    # Gathering

    def _ask_files(self) -> tuple[RuntimeEvidence | None, ApiEvidence | None]:
        """The witnesses that are files; asked once before anything is written, since a bad file is a wrong request."""
        settings = self.settings
        if not settings.is_offline:
            return None, None
        from workers.offline import api_from_file, runtime_from_file

        return (
            runtime_from_file(settings.sandboxes_file) if settings.sandboxes_file is not None else None,
            api_from_file(settings.pods_file, settings.node) if settings.pods_file is not None else None,
        )

    def look(self, *, settled_since: Callable[[], float]) -> Callable[[Look | None], Look]:
        """The function that lists the files and then asks every witness anew."""
        offset = offset_seconds(self.clock)

        def look(earlier: Look | None) -> Look:
            settled = self._is_copy or self.clock.monotonic() - settled_since() >= self.policy.min_age
            now_ns = self.clock.wall_ns()
            listing = self._list(earlier)
            self._step("listed")
            runtime_file, api_file = self._ask_files()
            with self.span("ask runtime") as asking:
                runtime = runtime_file or self._ask_runtime(listing)
                _tell_answer(asking, runtime, lambda: {"sandboxes": len(runtime.sandboxes)})
            if not runtime.live and self._has_crio():
                runtime = replace(runtime, keeps_results=True)
            with self.span("ask netns") as asking:
                paths = [path for many in listing.attachments.values() for one in many for path in one.namespaces]
                namespaces = ask_namespaces(self.root, paths, at_rest=self._is_copy)
                _tell_answer(asking, namespaces, lambda: {"directories": len(namespaces.directories)})
            with self.span("ask api") as asking:
                api = api_file or self._ask_api()
                _tell_answer(asking, api, lambda: {"pods": len(api.pods)})
            look = Look(
                listing,
                runtime=runtime,
                namespaces=namespaces,
                api=api,
                now_ns=now_ns,
                settled=settled,
            )
            if not self._is_copy and abs(offset_seconds(self.clock) - offset) > STEP_SECONDS:
                raise PassAborted("clock", "the wall clock was stepped during the pass: no age can be believed for a while")
            self._step("asked")
            self._looked = True
            return look

        return look

    def _list(self, earlier: Look | None) -> Listing:
        with self.span("list") as listing_files:
            listing = list_node(
                self.root,
                layout(self.root, self.settings.cnifiles),
                conf_dirs=self.settings.conf_dirs,
                only=self.settings.networks,
                earlier=earlier.listing if earlier else None,
            )
            listing_files.note(lambda: {"files": len(listing.items), "networks": len(listing.networks)})
            return listing

    def _ask_runtime(self, listing: Listing) -> RuntimeEvidence:
        if self.settings.runtime_endpoint == "none":
            return RuntimeEvidence(off=True)
        # Imported here: gRPC is 19 MiB and 0.1 s that a pass with a file, or without a runtime, need not pay.
        from workers.runtime import RuntimeWitness

        witness = RuntimeWitness(self.root, self.settings.runtime_endpoint)
        evidence = witness.ask()
        if _needs_statuses(listing, evidence):
            statuses = witness.statuses(evidence.sandboxes)
            return replace(evidence, statuses=statuses)
        return evidence

    def _has_crio(self) -> bool:
        """Whether this may be a node of CRI-O, where no runtime tells its version."""
        return any(os.path.lexists(self.root.real(path)) for path in CRIO)

    def _ask_api(self) -> ApiEvidence:
        from workers.pods import ApiWitness

        return ApiWitness(self.settings.api, self.settings.node).ask()

    def canary(self, look: Look) -> str | None:
        """Why this look is not to be believed; the own pod is only a canary for the node that this runs on."""
        here = self.root.is_host and not self.settings.is_offline
        return look.canary(pod_uid=self.settings.pod_uid if here else None, in_cluster=self.settings.in_cluster and here)

    # Applying

    def wait(self, seconds: float) -> None:
        """The time between the looks."""
        self.observe("waiting")
        self.clock.sleep(seconds)

    def remove(
        self, items: Sequence[Item], networks: Sequence[Network], leaks: Iterable[Leak], pods: Mapping[str, str]
    ) -> Iterator[tuple[int, Outcome]]:
        """Take the leaked files away."""
        self.problems |= {network.directory: network.problem for network in networks if network.problem is not None}
        journal = Journal(self.state.journal, self.pass_id)
        remover = Remover(
            root=self.root,
            journal=journal,
            is_on_hold=self._is_on_hold,
            wall_ns=self.clock.wall_ns,
            pods=pods,
            observe=self.observe,
            findings=self.findings,
            problems=self.problems,
        )
        try:
            yield from remover.remove(items, leaks)
        finally:
            self.lock_wait = remover.lock_wait
            with contextlib.suppress(PassAborted):
                journal.sync()
            journal.close()

    def _is_on_hold(self) -> bool:
        if self.is_stopped():
            raise PassAborted("hold", "the sweep was stopped: what was not removed by then is left")
        return self.state.is_on_hold()

    def refuse_hold(self) -> None:
        """Not to begin what a `hold` would stop.

        Raises:
            PassAborted: there is one.
        """
        if self.state.is_on_hold() and not self.policy.dry_run:
            raise PassAborted("hold", f"{self.state.path('hold')} stops every removal: remove it to go on")

    def tell_hold(self) -> None:
        """Remark a `hold`, where nothing would be removed anyway."""
        if self.state.is_on_hold():
            self.findings.append(f"{self.state.path('hold')} is there: no pass removes anything until it is gone")

    def _step(self, name: str) -> None:
        self.observe(f"{name}-again" if self._looked else name)

    # Reporting

    def report(self, course: Course) -> Report:
        """What the pass has come to, in full."""
        judgement = course.judgement
        last = course.looks[-1] if course.looks else None
        listing = judgement.listing if judgement else Listing()
        networks = judgement.networks if judgement else ()
        return Report(
            node=self.settings.node,
            pass_id=self.pass_id,
            sweep_id=self.sweep_id,
            started_ns=self.started_ns,
            finished_ns=self.clock.wall_ns(),
            policy=self.policy,
            aborted=self.aborted,
            witnesses=last.witnesses() if last else {},
            networks=[replace(one, problem=self.problems.get(one.directory, one.problem)) for one in networks],
            items=listing.items,
            decisions=judgement.decisions if judgement else (),
            outcomes=course.outcomes,
            pods=judgement.pods if judgement else {},
            findings=[*(judgement.findings if judgement else ()), *self.findings],
            lock_wait=self.lock_wait,
        )

    def write(self, report: Report) -> None:
        """Replace `report.json` and count in `totals.json`.

        Raises:
            PassAborted: they cannot be written.
        """
        self.state.write(reports.NAME, reports.chunks(report))
        self.state.write_json("totals.json", _totals(self.state, report))
        self.written = report


def _tell_answer(
    asking: Step, answer: RuntimeEvidence | NamespaceEvidence | ApiEvidence, size: Callable[[], dict[str, Fact]]
) -> None:
    """Tell what became of asking a witness, and how much it had to say."""
    if answer.unknown is not None:
        asking.fail(answer.unknown)
    asking.note(size)


def _needs_statuses(listing: Listing, evidence: RuntimeEvidence) -> bool:
    """For empty files, and to tell hostNetwork sandboxes where no reservation is known."""
    if any(item.subject is Subject.EMPTY for item in listing.items):
        return True
    return not any(item.kind == "reservation" and item.container_id in evidence.sandboxes for item in listing.items)


def _totals(state: State, report: Report) -> dict[str, Any]:
    """The counters since the first start, with this pass in them; a file that cannot be read starts them anew."""
    try:
        totals = state.read_json("totals.json") or {}
        passes = {result: int(count) for result, count in totals.get("passes", {}).items()}
        removed = {(one["network"], one["reason"]): int(one["count"]) for one in totals.get("removed", ())}
        last_success = totals.get("last_success")
    except (CleanupError, AttributeError, KeyError, TypeError, ValueError):
        passes, removed, last_success = {}, {}, None
    result = "aborted" if report.aborted else "failed" if report.count("failed") else "ok"
    passes[result] = passes.get(result, 0) + 1
    for item, decision, outcome in report.rows():
        if outcome == "removed" and item.kind == "reservation":
            key = (item.network, decision.reason)
            removed[key] = removed.get(key, 0) + 1
    return {
        "passes": passes,
        "removed": [{"network": network, "reason": reason, "count": n} for (network, reason), n in removed.items()],
        "last_success": rfc3339(report.finished_ns) if result == "ok" else last_success,
    }
