"""
Cleaner and plugin against each other: the harness of the race that a careless cleaner loses.

Workers make and end sandboxes as a container runtime does, with the real host-local plugin. Some die without a DEL (leaks); some
of those get their DEL after all, at the worst moment, and their address goes to the next at once. A runtime lists each sandbox
only 100-500 ms after its ADD returned. The product's pass runs all the while in a process of its own, see race_cleaner.py. Both
sides are killed at random moments. The harness knows the truth and compares it with the disk and with the journal all the time.
"""

import contextlib
import fcntl
import heapq
import ipaddress
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from tests.support.api_server import ApiServer, write_kubeconfig
from tests.support.cri_server import CriServer
from tests.support.cri_server import Sandbox as ListedSandbox
from tests.support.plugin import Attachment, HostLocal, PluginError, finish, write_result
from tests.support.polling import until
from tests.support.race_cleaner import Course
from tests.support.race_truth import Entry, Figures, JournalReader, Key, Ledger, Sandbox

NETWORK = "cbr0"

SUBNET = "10.88.0.0/25"
"""125 addresses: each is used again within a second or so."""

NODE = "node1"

BLIND_WINDOW = (0.1, 0.5)
"""Seconds after its ADD returned until the runtime lists a sandbox."""

MIN_AGE = (1.0, 3.0)
"""Seconds; drawn for each race."""

MARGIN = 0.1
"""Seconds: the ages of files go by a clock that ticks every 4 ms."""

CONFIRM_AFTER = (0.02, 0.3)
"""Seconds; drawn for each cleaner process."""

CLEANER_LIFE = (0.2, 8.0)
"""Seconds from its first step until a cleaner process is killed, unless a deadly step comes first."""

DEADLY_STEPS = ("announced", "locked", "unlinking", "removed", "recorded", "asked-again", "")
"""At one of which a cleaner process is killed: those that are over too soon to be met by chance; or at none."""

PLUGIN_KILLED = 0.04
"""Of the ADDs and DELs; a plugin runs for about 3 ms."""

KILLED_WITHIN = 0.006
"""Seconds after its start."""

DIES = 0.15
"""Of the sandboxes end without a DEL."""

CUT_SHORT = 0.004
"""Of the ADDs leave an empty file: the kill between its creation and its writing is seldom met by chance."""

HAS_RESULTS = 0.33
"""Of the sandboxes have a namespace and a results file; the others are protected by runtime and age alone."""

STOLEN = 0.7
"""Of the announcements meet a late DEL of one of the files that are about to go."""

ENDURING = 8
"""Sandboxes that live as long as the race."""

SETTLES_WITHIN = 90.0
"""Seconds for the last passes, that nobody disturbs; they need about `min_age` and one second."""

_REPOSITORY = Path(__file__).parents[2]


class Lost(AssertionError):
    """An invariant was broken: what, with the seed, the figures and the history of those concerned."""


class _Killed(Exception):
    """The plugin was killed: nobody knows how far it came."""


class _Refused(Exception):
    """The plugin has no address, or not the one that was wanted."""


class _Fate:
    """When a cleaner process is killed: some time after its first step, or at a deadly step."""

    def __init__(self, process: subprocess.Popen[str], dice: random.Random) -> None:
        self._process = process
        self._timer = threading.Timer(dice.uniform(*CLEANER_LIFE), process.kill)
        self._deadly = dice.choice(DEADLY_STEPS)
        self._spared = dice.randrange(8)

    def reached(self, step: str) -> None:
        """Count the steps."""
        if self._timer.ident is None:
            self._timer.start()
        if step == self._deadly:
            self._spared -= 1
            if self._spared < 0:
                self._process.kill()

    def cancel(self) -> None:
        """It is dead already."""
        self._timer.cancel()


class Race:
    """One race; `run` is the whole of it, and ends what it started however it goes."""

    def __init__(
        self,
        directory: Path,
        sockets: Path,
        plugin: Path,
        *,
        operations: int,
        seed: int,
        sabotage: str = "",
        limit: float = 600.0,
    ) -> None:
        """`directory` takes the node and our files, `sockets` has a short path, `limit` is in seconds."""
        self.random = random.Random(seed)
        self.figures = Figures(seed=seed, min_age=self.random.uniform(*MIN_AGE))
        self.operations = operations
        self.sabotage = sabotage
        self.deadline = time.monotonic() + limit
        self.root = directory / "node"
        self.state = directory / "state"
        self.log = directory / "cleaner.log"
        self.plugin = HostLocal(binary=plugin, data_dir=self.root / "var/lib/cni/networks", network=NETWORK, ranges=((SUBNET,),))
        self.results = self.root / "var/lib/cni/results"
        self.netns = self.root / "run/netns"
        for path in (self.plugin.directory, self.results, self.netns, self.state):
            path.mkdir(parents=True)
        self.runtime = CriServer(sockets / "cri.sock")
        self.api = ApiServer([_host_network_pod()])
        self.kubeconfig = write_kubeconfig(directory / "kubeconfig", self.api.url)
        self.ledger = Ledger()
        self.journal = JournalReader(self.state / "journal")
        self.announced: set[Key] = set()
        self.history: deque[str] = deque(maxlen=5000)
        self.seen: set[Key] = set()
        self.vanished: set[Key] = set()
        self.over = threading.Event()
        self._due: list[tuple[float, str, Sandbox]] = []
        self._changed = threading.Condition()
        self._reading = threading.Lock()
        self._about_to_go: list[Key] = []
        self._thefts: queue.SimpleQueue[Key] = queue.SimpleQueue()

    def run(self) -> Figures:
        """Race until enough operations are done, then see that every leak goes.

        Raises:
            Lost: an invariant was broken.
        """
        with self.runtime, self.api, contextlib.ExitStack() as stack:
            # Whatever ends the race, nothing of it goes on.
            stack.callback(self.over.set)
            self._begin()
            loops = [self._cleaner_loop(self.random.random()), self._thief_loop(), self._audit_loop()]
            loops += [self._worker_loop(self.random.random()) for _ in range(3)]
            with ThreadPoolExecutor(len(loops)) as pool:
                futures = [pool.submit(self._until_over, loop) for loop in loops]
            for future in futures:
                future.result()
            self._settle()
        self.figures.seconds = time.monotonic() - self.figures.started
        return self.figures

    def note(self, what: str) -> None:
        """Remember an event for the failure that may come."""
        self.history.append(f"{time.time() % 1000:8.3f} {what}")

    def lose(self, what: str, *concerned: str | None) -> NoReturn:
        """An invariant is broken.

        Raises:
            Lost: always.
        """
        self.figures.seconds = time.monotonic() - self.figures.started
        words = [word for word in concerned if word]
        told = [line for line in list(self.history) if any(word[:13] in line for word in words)]
        raise Lost("\n".join([what, self.figures.line(), f"about {', '.join(words)}:", *told[-60:]]))

    def _until_over(self, step: Callable[[], None]) -> None:
        try:
            while not self.over.is_set():
                step()
                if time.monotonic() > self.deadline:
                    self.lose(f"only {self.figures.counts['operations']} of {self.operations} operations were done in time")
        finally:
            self.over.set()
            with self._changed:
                self._changed.notify_all()

    # Sandboxes and the plugin

    def _begin(self) -> None:
        dice = random.Random(self.random.random())
        for _ in range(ENDURING):
            sandbox = self._add(dice, enduring=True)
            while sandbox is None:
                sandbox = self._add(dice, enduring=True)

    def _worker_loop(self, seed: float) -> Callable[[], None]:
        dice = random.Random(seed)

        def step() -> None:
            ending = self._next_due()
            if ending is not None:
                self._end(ending, dice)
            elif dice.random() < CUT_SHORT:
                self._leave_empty_file(dice)
            elif self._add(dice) is None:
                with self._changed:
                    self._changed.wait(0.02)

        return step

    def _next_due(self) -> Sandbox | None:
        with self._changed:
            if self._due and self._due[0][0] <= time.monotonic():
                return heapq.heappop(self._due)[2]
            return None

    def _add(self, dice: random.Random, *, address: str = "", enduring: bool = False) -> Sandbox | None:
        """Make a sandbox, for this very address if one is given; None if nothing lives in the end."""
        sandbox = Sandbox(id=dice.randbytes(32).hex(), has_results=dice.random() < HAS_RESULTS)
        self.ledger.begin(sandbox)
        namespace = self._namespace(sandbox)
        if sandbox.has_results:
            namespace.touch()
        started = time.monotonic()
        try:
            result = self._plugin("ADD", sandbox, dice, arguments=f"IP={address}" if address else "")
        except _Refused:
            self._forget(sandbox)
            return None
        except _Killed:
            self._roll_back(sandbox, dice)
            return None
        sandbox.address = str(result["ips"][0]["address"]).partition("/")[0]
        if sandbox.has_results:
            netns = f"/var/run/netns/{namespace.name}"
            addresses = (f"{sandbox.address}/25",)
            write_result(self.results, Attachment(container_id=sandbox.id, netns=netns, network=NETWORK, addresses=addresses))
        listed = ListedSandbox(id=sandbox.id, name=sandbox.id[:8], uid=sandbox.id[:32], ips=(sandbox.address,))
        self.runtime.add(listed, visible_after=dice.uniform(*BLIND_WINDOW))
        if time.monotonic() - started > self.figures.min_age - BLIND_WINDOW[1] - MARGIN:
            # This machine stood still: the file may be older than min-age before the runtime lists its sandbox.
            self.figures.count("slow ADDs")
            self._delete(sandbox, dice)
            return None
        self._live(sandbox, dice, enduring=enduring)
        return sandbox

    def _live(self, sandbox: Sandbox, dice: random.Random, *, enduring: bool) -> None:
        other = self.ledger.born(sandbox)
        self.note(f"ADD of {sandbox.id[:13]} returned {sandbox.address}")
        if other is not None:
            self.lose(f"{sandbox.address} has two living owners: {other.id} and {sandbox.id}", sandbox.address)
        if not self._is_on_disk(sandbox.key):
            self.lose(f"{sandbox.address} is not there when its ADD returns", sandbox.address, sandbox.id)
        if not enduring:
            sandbox.lives_until = time.monotonic() + self._lifetime(dice)
            with self._changed:
                heapq.heappush(self._due, (sandbox.lives_until, sandbox.id, sandbox))

    def _lifetime(self, dice: random.Random) -> float:
        """Mostly within the blind window; some live for long enough to be old while they live."""
        kind = dice.random()
        if kind < 0.65:
            return dice.uniform(0.0, 0.4)
        if kind < 0.85:
            return dice.uniform(0.4, 1.5)
        return self.figures.min_age + dice.uniform(0.0, 3.0)

    def _end(self, sandbox: Sandbox, dice: random.Random) -> None:
        if dice.random() < DIES:
            self._die(sandbox)
        else:
            self._delete(sandbox, dice)

    def _die(self, sandbox: Sandbox) -> None:
        self.ledger.die(sandbox)
        self.figures.count("leaks")
        self.note(f"{sandbox.id[:13]} with {sandbox.address or 'no known address'} died without a DEL")
        self._forget(sandbox)

    def _roll_back(self, sandbox: Sandbox, dice: random.Random) -> None:
        """After an ADD that did not return: the runtime asks for a DEL, or has died with it."""
        if dice.random() < 0.5:
            self._die(sandbox)
        else:
            self._delete(sandbox, dice)

    def _delete(self, sandbox: Sandbox, dice: random.Random) -> None:
        """DEL, and once more after a kill, or never again."""
        self.ledger.begin_delete(sandbox)
        self.note(f"DEL of {sandbox.id[:13]} with {sandbox.address}")
        while True:
            try:
                self._plugin("DEL", sandbox, dice)
            except _Killed:
                if dice.random() < 0.5:
                    continue
                self.figures.count("DELs never finished")
                break
            self._results_file(sandbox).unlink(missing_ok=True)
            break
        self._forget(sandbox)
        with self._changed:
            self._changed.notify()

    def _forget(self, sandbox: Sandbox) -> None:
        self._namespace(sandbox).unlink(missing_ok=True)
        self.runtime.remove(sandbox.id)

    def _plugin(self, command: str, sandbox: Sandbox, dice: random.Random, *, arguments: str = "") -> dict[str, Any]:
        """Run the plugin, and perhaps kill it.

        Raises:
            _Killed: it was killed.
            _Refused: it has no address to give.
        """
        process = self.plugin.start(command, sandbox.id, arguments=arguments)
        if dice.random() < PLUGIN_KILLED:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0.0, KILLED_WITHIN))
            process.kill()
        try:
            result = finish(process)
        except PluginError as error:
            if "no IP addresses available" in str(error) or (arguments and "is not available" in str(error)):
                self.figures.count("refused ADDs")
                raise _Refused from error
            if error.code != -signal.SIGKILL:
                self.lose(f"{command} of {sandbox.id} failed: {error}", sandbox.id)
            self.note(f"{command} of {sandbox.id[:13]} was killed")
            self.figures.count(f"killed {command}s")
            self._did_one()
            raise _Killed from error
        self._did_one()
        return result

    def _did_one(self) -> None:
        if self.figures.count("operations") >= self.operations:
            self.over.set()

    def _leave_empty_file(self, dice: random.Random) -> None:
        """What a plugin that is killed between creating and writing its file leaves."""
        addresses = [self.plugin.directory / str(address) for address in ipaddress.ip_network(SUBNET).hosts()]
        with self._flocked():
            free = [path for path in addresses[1:] if not path.exists()]
            if free:
                left = dice.choice(free)
                left.touch()
                self.note(f"{left.name} was left empty")
                self.figures.count("left empty")

    # The thief: an address goes from a leak to a new sandbox while the cleaner is about to remove the leak's file

    def _thief_loop(self) -> Callable[[], None]:
        dice = random.Random(self.random.random())

        def step() -> None:
            with contextlib.suppress(queue.Empty):
                self._steal(self._thefts.get(timeout=0.1), dice)

        return step

    def _steal(self, key: Key, dice: random.Random) -> None:
        sandbox = self.ledger.find(key.container_id)
        if sandbox is None or sandbox.is_live:
            return
        self.figures.count("late DELs")
        self._delete(sandbox, dice)
        if self._add(dice, address=key.address) is not None:
            self.figures.count("addresses given on at once")

    # The cleaner

    def _cleaner_loop(self, seed: float) -> Callable[[], None]:
        dice = random.Random(seed)
        return lambda: self._one_cleaner(dice)

    def _one_cleaner(self, dice: random.Random) -> None:
        """One cleaner process, from its start to its SIGKILL."""
        with self._cleaner(dice) as process:
            fate = _Fate(process, dice)
            try:
                last = self._listen(process, dice, fate.reached)
            finally:
                fate.cancel()
        self.figures.count("killed cleaners")
        self.figures.killed_at[last] += 1

    @contextlib.contextmanager
    def _cleaner(self, dice: random.Random, *, calm: bool = False) -> Iterator[subprocess.Popen[str]]:
        course = Course(
            root=os.fspath(self.root),
            state_dir=os.fspath(self.state),
            runtime_endpoint=self.runtime.endpoint,
            node=NODE,
            min_age=self.figures.min_age,
            confirm_after=dice.uniform(*CONFIRM_AFTER),
            seed=str(dice.random()),
            # Two looks protect much of what age does, when pauses between them outlast the blind window.
            calm=calm or self.sabotage == "age",
        )
        environment = {**os.environ, "KUBECONFIG": os.fspath(self.kubeconfig), "RACE_SABOTAGE": self.sabotage}
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.race_cleaner", course.json()],
                cwd=_REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def _listen(self, process: subprocess.Popen[str], dice: random.Random, reached: Callable[[str], None]) -> str:
        """Follow the cleaner until it is killed, tell each step that it reached, and return the last one."""
        assert process.stdout is not None
        last = "start"
        for line in process.stdout:
            event, _, rest = line.rstrip("\n").partition(" ")
            if event == "pass":
                self._passed(json.loads(rest))
            else:
                last = rest if event == "step" else event
                reached(last)
                self._meddle(event, rest, dice)
            if self.over.is_set():
                process.kill()
        if process.wait() != -signal.SIGKILL:
            self.lose(f"the cleaner ended by itself with status {process.returncode}: {self.log.read_text()[-3000:]}")
        return last

    def _passed(self, outcome: Mapping[str, Any]) -> None:
        aborted = outcome["aborted"]
        if aborted and aborted["reason"] == "internal":
            self.lose(f"a pass ended with an error: {aborted['detail']}: {self.log.read_text()[-3000:]}")
        self.figures.count(f"passes aborted ({aborted['reason']})" if aborted else "passes")

    def _meddle(self, event: str, rest: str, dice: random.Random) -> None:
        """Choose a leak that is about to be removed, for the thief."""
        self.read_journal()
        if event == "unlinking":
            container_id, _, address = rest.partition(" ")
            self._thefts.put(Key(address, container_id))
        elif rest == "announced" and self._about_to_go and dice.random() < STOLEN:
            self._thefts.put(dice.choice(self._about_to_go))

    # What must hold

    def _audit_loop(self) -> Callable[[], None]:
        def step() -> None:
            self.audit()
            self.over.wait(0.1)

        return step

    def audit(self) -> set[Key]:
        """Every living sandbox has its files, and the journal has what vanished. Returns the reservations on disk."""
        # Under the plugin's lock that is no moving target.
        with self._flocked():
            live = self.ledger.live()
            found = self._reservations()
        self.read_journal()
        for sandbox in live:
            if sandbox.key not in found:
                now = next((key for key in found if key.address == sandbox.address), None)
                self.lose(
                    f"{sandbox.address} was taken from {sandbox.id}, which lives; now there is {now}",
                    sandbox.address,
                    sandbox.id,
                )
            if sandbox.has_results and not self._results_file(sandbox).exists() and sandbox.is_live:
                self.lose(f"the results file of {sandbox.id} went, and it lives", sandbox.id)
        for key in self.seen - found - self.vanished:
            self._vanish(key)
        self.seen |= found
        self.figures.count("audits")
        return found

    def _vanish(self, key: Key) -> None:
        """A file is gone: by a DEL, or as the journal says."""
        sandbox = self.ledger.find(key.container_id)
        if key in self.announced:
            self.figures.count("files that vanished as the journal says")
        elif sandbox is None or not sandbox.deleting:
            self.lose(f"{key.address} of {key.container_id} vanished, and is not in the journal", key.address, key.container_id)
        if key.container_id:
            self.vanished.add(key)
        else:
            # Without an id the next one at this address would be the same.
            self.seen.discard(key)
            self.announced.discard(key)

    def _reservations(self) -> set[Key]:
        try:
            files = [path for path in self.plugin.directory.iterdir() if path.name[0].isdigit()]
            return {Key.of(path) for path in files}
        except FileNotFoundError as error:
            self.lose(f"{error.filename} went while the plugin's lock was held", os.path.basename(error.filename))

    def read_journal(self) -> None:
        """Nothing that lives was announced or removed, and nothing was removed that was not announced."""
        # Whoever comes back from here knows of all that was written before he came.
        with self._reading:
            for entry in self.journal.read():
                self._judge(entry)

    def _judge(self, entry: Entry) -> None:
        key = entry.key
        self.note(f"{entry.path} of {str(key and key.container_id)[:13]} was {entry.event}")
        if key is None:
            self.lose(f"{entry.path} was removed and never announced", entry.path.rpartition("/")[2])
        sandbox = self.ledger.find(key.container_id)
        if sandbox is not None and sandbox.was_live(entry.before_ns):
            self.lose(f"{entry.path} was {entry.event} while {sandbox.id} lived", key.address, sandbox.id)
        if entry.event == "removed":
            self.figures.count("removed files")
        elif entry.data is not None:
            if entry.data != key.content():
                self.lose(f"the journal holds other bytes of {entry.path} than the plugin wrote", key.address, key.container_id)
            self.announced.add(key)
            self._about_to_go = [*self._about_to_go[-10:], key]

    def _settle(self) -> None:
        """Passes that nobody disturbs: every leak goes, every living one stays, and the journal knows of each."""
        left: set[Key] = set()

        def is_settled() -> bool:
            nonlocal left
            left = self.audit() - {sandbox.key for sandbox in self.ledger.live()}
            return not left and self._leftovers() == set()

        dice = random.Random(self.random.random())
        self.over.clear()
        with self._cleaner(dice, calm=True) as process, ThreadPoolExecutor(1) as pool:
            listening = pool.submit(self._listen, process, dice, lambda _step: None)
            try:
                until(lambda: listening.done() or is_settled(), seconds=SETTLES_WITHIN, what="the end of all leaks")
            except TimeoutError:
                self._lose_by_leaks(left)
            finally:
                process.kill()
            listening.result()
        self.audit()
        for sandbox in self.ledger.live():
            self._delete(sandbox, dice)

    def _leftovers(self) -> set[str]:
        """Results files of nobody who lives."""
        live = {self._results_file(sandbox).name for sandbox in self.ledger.live()}
        return {path.name for path in self.results.iterdir()} - live

    def _lose_by_leaks(self, left: set[Key]) -> NoReturn:
        names = {key.address for key in left} | self._leftovers()
        report = json.loads((self.state / "report.json").read_bytes())
        rows = [json.dumps(row) for row in report.pop("files") if row["path"].rpartition("/")[2] in names]
        self.lose("\n".join([f"{len(names)} leaks remain:", json.dumps(report), *rows[:20]]), *sorted(names)[:3])

    # Small things

    @contextlib.contextmanager
    def _flocked(self) -> Iterator[None]:
        descriptor = os.open(self.plugin.lock, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _is_on_disk(self, key: Key) -> bool:
        try:
            return Key.of(self.plugin.directory / key.address) == key
        except FileNotFoundError:
            return False

    def _namespace(self, sandbox: Sandbox) -> Path:
        return self.netns / f"cni-{sandbox.id[:32]}"

    def _results_file(self, sandbox: Sandbox) -> Path:
        return self.results / f"{NETWORK}-{sandbox.id}-eth0"


def _host_network_pod() -> dict[str, Any]:
    """The only pod of the API: it must not be empty, and it vouches for nobody."""
    return {
        "metadata": {"name": "agent", "namespace": "kube-system", "uid": "00000000-0000-4000-8000-000000000001"},
        "spec": {"nodeName": NODE, "hostNetwork": True},
        "status": {"phase": "Running", "podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}]},
    }
