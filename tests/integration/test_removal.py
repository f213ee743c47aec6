"""Taking files away: the plugin's lock, the last comparison, the journal before the first unlink, what stops a pass."""

import base64
import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import api_server as api
from tests.support import cri_server as cri
from tests.support.namespaces import unmount_below
from tests.support.nodetree import LaterClock, NodeTree, container_id, remaining, reservations, verdicts
from tests.support.polling import until
from tests.support.program import read_only
from tests.support.skips import require_root
from workers import locking, removal
from workers.disk import stamp_of
from workers.state import State


@pytest.fixture
def tree(tmp_path):
    """A node with one live pod and one leak."""
    tree = NodeTree(tmp_path)
    tree.live("web", "10.88.0.2")
    tree.dead("gone", "10.88.0.3")
    return tree


def at(step, action):
    """An observer that acts when a step is first reached."""
    reached = []

    def observe(name):
        if name == step and name not in reached:
            reached.append(name)
            action()

    return observe


def journal_events(tree):
    lines = [line for path in sorted((tree.state / "journal").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def problems(report):
    return {network.name: network.problem for network in report.networks}


def take_lock(tree):
    """Take the lock of cbr0 and give it back.

    Raises:
        BlockingIOError: another holds it.
    """
    fd = os.open(tree.root / "var/lib/cni/networks/cbr0/lock", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def is_lock_free(tree):
    """Whether nobody holds the lock of cbr0."""
    try:
        take_lock(tree)
    except BlockingIOError:
        return False
    return True


# The lock


def test_a_lock_that_the_plugin_holds_is_waited_for(tree):
    lock = os.open(tree.root / "var/lib/cni/networks/cbr0/lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = threading.Event()
    reports = []

    def run():
        reports.append(tree.clean(observe=at("announced", done.set)))

    thread = threading.Thread(target=run)
    thread.start()
    until(done.is_set, what="the announcement")
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}
    os.close(lock)
    thread.join(30)
    assert reports[0].count("removed") == 3
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def test_a_lock_that_is_never_released_is_a_finding_and_nothing_goes(tree, monkeypatch):
    monkeypatch.setattr(locking, "BUDGET", 0.05)
    lock = os.open(tree.root / "var/lib/cni/networks/cbr0/lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        report = tree.clean()
    finally:
        os.close(lock)
    assert problems(report) == {"cbr0": "lock-busy"}
    assert report.count("failed") == 3
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_nothing_is_unlinked_while_another_holds_the_lock(tree):
    """The step `locked` is inside the lock: a second flock must fail there."""
    seen = []

    def try_to_lock():
        try:
            take_lock(tree)
        except BlockingIOError as error:
            seen.append(error.errno)

    tree.clean(observe=at("locked", try_to_lock))
    assert seen == [errno.EWOULDBLOCK]


def test_the_lock_is_free_while_the_pass_pauses(tree):
    free = []

    for step in ("listed", "asked", "waiting", "listed-again", "asked-again", "announced", "removed", "recorded"):
        tree.dead("gone", "10.88.0.3")
        tree.clean(observe=at(step, lambda: free.append(is_lock_free(tree))))
    assert free == [True] * 8


class HandTime:
    """Stands for the module `time`: it goes on only where somebody says so."""

    def __init__(self, while_asleep=lambda: None):
        self.now = 1000.0
        self.while_asleep = while_asleep

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.while_asleep()
        self.now += seconds


def slow_unlinks(time, seconds, monkeypatch):
    """Have every unlink take so long by the hand-moved time."""
    original = os.unlink

    def slow(*arguments, **more):
        original(*arguments, **more)
        time.now += seconds

    monkeypatch.setattr(os, "unlink", slow)


def test_the_lock_is_given_back_after_3_ms_with_the_rest_still_there(tree, monkeypatch):
    for number in range(10, 20):
        tree.reservation(f"10.88.0.{number}", f"leak-{number}")
    time = HandTime()
    monkeypatch.setattr(removal, "time", time)
    slow_unlinks(time, 0.002, monkeypatch)
    seen = []

    def observe(step):
        if step in ("locked", "removed"):
            seen.append((time.now, len(remaining(tree))))

    tree.clean(observe=observe)
    holds = list(zip(seen[::2], seen[1::2], strict=True))
    assert [before - after for (_, before), (_, after) in holds] == [2, 2, 2, 2, 2, 1]
    assert max(end - begin for (begin, _), (end, _) in holds) < removal.HOLD_SECONDS + 0.002
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def test_between_two_holds_the_lock_is_free_for_a_while(tree, monkeypatch):
    for number in range(10, 20):
        tree.reservation(f"10.88.0.{number}", f"leak-{number}")
    free = []
    time = HandTime(while_asleep=lambda: free.append(is_lock_free(tree)))
    monkeypatch.setattr(removal, "time", time)
    slow_unlinks(time, 0.004, monkeypatch)
    released: list[float] = []
    pauses: list[float] = []

    def observe(step):
        if step == "locked" and released:
            pauses.append(time.now - released[-1])
        if step == "removed":
            released.append(time.now)

    tree.clean(observe=observe)
    shortest, longest = removal.PAUSE_SECONDS
    assert len(pauses) == 10
    assert all(shortest * 0.999 <= pause <= longest * 1.001 for pause in pauses)
    assert all(free)
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def test_a_ctrl_z_waits_until_the_lock_is_released(tree):
    """A stopped process that holds the lock stops every ADD and DEL of the node, for ever."""
    script = (
        "import os, signal\n"
        "from cni.settings import Settings\n"
        "from tests.support.nodetree import LaterClock\n"
        "from workers import node\n"
        "signal.signal(signal.SIGTSTP, signal.SIG_DFL)\n"
        "def observe(step):\n"
        "    if step == 'locked': os.kill(os.getpid(), signal.SIGTSTP)\n"
        f"node.clean(Settings(**{vars(tree.settings())!r}), clock=LaterClock(3600.0), observe=observe)\n"
    )
    # A group of its own, in the session of its parent: the kernel lets no orphaned group be stopped by SIGTSTP.
    child = subprocess.Popen([sys.executable, "-c", script], process_group=0, stdout=subprocess.DEVNULL)
    try:
        until(lambda: state_of(child), what="the stop")
        stopped = state_of(child)
        assert stopped is not None
        assert stopped.si_code == os.CLD_STOPPED
        assert is_lock_free(tree)
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def state_of(child):
    """How the child stopped or ended, None while it runs; it is not reaped."""
    return os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)


@pytest.mark.parametrize("step", ["listed", "announced"])
def test_a_network_without_a_lock_is_skipped_and_the_lock_is_not_created(tree, step):
    lock = tree.root / "var/lib/cni/networks/cbr0/lock"
    report = tree.clean(observe=at(step, lock.unlink))
    assert problems(report) == {"cbr0": "no-lock"}
    assert not lock.exists()
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


@pytest.mark.parametrize("what", ["lock", "directory"])
def test_a_lock_or_directory_that_was_replaced_excludes_nobody(tree, what):
    directory = tree.root / "var/lib/cni/networks/cbr0"

    def replace_lock():
        (directory / "lock").unlink()
        (directory / "lock").touch()

    def replace_directory():
        directory.rename(tree.path / "away")
        directory.mkdir()
        (directory / "lock").touch()

    # What locks at the moment of replacement has the old one open: the lock is held by another until then.
    held = os.open(directory / "lock", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    announced = threading.Event()
    reports = []
    thread = threading.Thread(target=lambda: reports.append(tree.clean(observe=at("announced", announced.set))))
    thread.start()
    until(announced.is_set, what="the announcement")
    until(lambda: locks_waited_for(directory / "lock"), what="the pass at the lock")
    replace_lock() if what == "lock" else replace_directory()
    os.close(held)
    thread.join(30)
    assert problems(reports[0]) == {"cbr0": "lock-error"}
    assert reports[0].count("removed") == 0


def locks_waited_for(lock):
    """Whether this process has the lock open a second time: the pass is polling it."""
    status = os.stat(lock)
    opened = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.path.samestat(os.stat(f"/proc/self/fd/{fd}"), status))
        except OSError:
            continue
    return sum(opened) >= 2


def test_a_lock_that_is_a_link_is_an_error(tree):
    lock = tree.root / "var/lib/cni/networks/cbr0/lock"
    lock.rename(tree.path / "elsewhere")
    lock.symlink_to(tree.path / "elsewhere")
    report = tree.clean()
    assert problems(report) == {"cbr0": "lock-error"}
    assert remaining(tree) >= {"cbr0/10.88.0.3"}


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_a_lock_that_is_no_regular_file_is_an_error(tree, kind):
    lock = tree.root / "var/lib/cni/networks/cbr0/lock"
    lock.unlink()
    lock.mkdir() if kind == "directory" else os.mkfifo(lock)
    report = tree.clean()
    assert problems(report) == {"cbr0": "lock-error"}
    assert remaining(tree) >= {"cbr0/10.88.0.3"}


# The order of a look


@pytest.mark.parametrize("witness", ["runtime", "netns", "api"])
def test_every_witness_is_asked_after_the_files_were_listed(tree, witness):
    def appears():
        if witness == "runtime":
            tree.sandbox("gone")
        elif witness == "netns":
            tree.namespace("gone")
        else:
            tree.pod("late", "10.88.0.3")
        tree.reservation("10.88.0.4", "later")
        tree.settings()

    found = reservations(tree.clean(observe=at("listed-again", appears)))
    assert found["cbr0/10.88.0.3"] == {"runtime": "keep/sandbox", "netns": "keep/netns", "api": "keep/pod-ip"}[witness]
    assert "cbr0/10.88.0.4" not in found, "the files were listed after this step, and not before it"


def test_a_runtime_is_asked_after_the_files_were_listed(tree, cri_server):
    cri_server.add(cri.Sandbox(id=container_id("web"), name="web", uid="uid-web"))
    live = {"sandboxes_file": None, "runtime_endpoint": cri_server.endpoint}
    late = cri.Sandbox(id=container_id("gone"), name="gone", uid="uid-gone")
    report = tree.clean(observe=at("listed-again", lambda: cri_server.add(late)), **live)
    assert reservations(report)["cbr0/10.88.0.3"] == "keep/sandbox"


def test_the_api_is_asked_after_the_files_were_listed(tree, api_server, monkeypatch):
    # Imported here: it takes a second, and this file is run once for each guard of the removal.
    from kubernetes.config import kube_config

    for name in [name for name in os.environ if name.startswith("KUBE") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    path = api.write_kubeconfig(tree.path / "kubeconfig", api_server.url)
    # The package reads KUBECONFIG once, when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    api_server.set_pods(tree.pods)
    tree.pod("late", "10.88.0.3")
    report = tree.clean(observe=at("listed-again", lambda: api_server.set_pods(tree.pods)), pods_file=None, api="external")
    assert report.witnesses["api"] == "ok"
    assert reservations(report)["cbr0/10.88.0.3"] == "keep/pod-ip"


def test_a_file_that_another_file_system_shows_under_an_address_is_not_judged(tree):
    require_root()
    tree.reservation("fd00::3", "gone")
    elsewhere = tree.path / "elsewhere"
    elsewhere.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(elsewhere)], check=True)
        path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"
        (elsewhere / "file").write_bytes(path.read_bytes())
        subprocess.run(["mount", "--bind", str(elsewhere / "file"), str(path)], check=True)
        report = tree.clean()
    finally:
        unmount_below(tree.path)
    found = reservations(report)
    assert found["cbr0/10.88.0.3"] == found["cbr0/fd00::3"] == "undecided/unparsable"
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}


# The last comparison, under the lock


@pytest.mark.parametrize("other", ["same length", "one byte more", "empty"])
def test_other_bytes_under_the_same_times_stay(tree, monkeypatch, other):
    """Times are as coarse as the kernel's tick: a file can change twice within one."""
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"
    content = path.read_bytes()
    bytes_now = {"same length": content[::-1], "one byte more": content + b"\n", "empty": b""}[other]
    stamps: dict[int, bytes] = {}
    monkeypatch.setattr(removal, "stamp_of", lambda status: stamps.get(status.st_ino) or stamp_of(status))

    def change():
        stamps[path.stat().st_ino] = stamp_of(path.stat())
        path.write_bytes(bytes_now)

    report = tree.clean(observe=at("locked", change))
    assert path.read_bytes() == bytes_now
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/absent/changed"
    assert report.count("removed") == 0


@pytest.mark.parametrize("change", ["bytes", "times", "links", "anew"])
def test_a_file_that_changed_after_the_second_look_stays(tree, change):
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"

    def act():
        if change == "bytes":
            status = path.stat()
            path.write_bytes(container_id("next").encode() + b"\r\neth0")
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        elif change == "times":
            os.utime(path, (2.0, 2.0))
        elif change == "links":
            os.link(path, tree.path / "link")
        else:
            path.unlink()
            tree.reservation("10.88.0.3", "next")

    report = tree.clean(observe=at("locked", act))
    assert path.exists()
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/absent/changed"
    assert report.count("removed") == 0


def test_one_reservation_that_changed_keeps_the_others_of_its_id(tree):
    second = tree.reservation("fd00::3", "gone")
    report = tree.clean(observe=at("locked", lambda: os.utime(second, (2.0, 2.0))))
    found = reservations(report)
    assert found["cbr0/10.88.0.3"] == found["cbr0/fd00::3"] == "leaked/absent/changed"
    assert report.count("removed") == 0
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}


def test_a_file_that_the_plugin_freed_meanwhile_is_gone_and_not_ours(tree):
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"
    report = tree.clean(observe=at("announced", path.unlink))
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/absent/gone"
    assert [event["event"] for event in journal_events(tree)] == ["announced", "removed", "kept"]


def test_a_results_file_that_changed_stays(tree):
    path = next((tree.root / "var/lib/cni/results").glob(f"cbr0-{container_id('gone')}-*"))
    report = tree.clean(observe=at("announced", lambda: os.utime(path, (2.0, 2.0))))
    assert path.exists()
    assert verdicts(report)[f"results/{path.name}"] == "leaked/absent/changed"


# The journal


def test_what_is_removed_was_on_disk_before(tree):
    path = tree.root / "var/lib/cni/networks/cbr0/10.88.0.3"
    content, status = path.read_bytes(), path.stat()
    announced = []

    def look():
        assert path.exists()
        announced.extend(journal_events(tree))

    tree.clean(observe=at("locked", look))
    assert not path.exists()
    [event] = announced
    [record] = [one for one in event["files"] if one["kind"] == "reservation"]
    assert base64.b64decode(record["data"]) == content
    assert (record["mode"], record["mtime_ns"]) == (status.st_mode, status.st_mtime_ns)
    assert (record["reason"], record["pod"]) == ("absent", "default/gone")


def test_the_journal_is_synced_before_each_unlink(tree, monkeypatch):
    for number in range(10, 100):
        tree.reservation(f"10.88.0.{number}", f"leak-{number}")
    journal = tree.state / "journal"
    fsync, unlink = os.fsync, os.unlink
    synced: set[str] = set()
    lasting: set[Path] = set()
    unlinked = []

    def watched_fsync(fd):
        fsync(fd)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path == journal:
            lasting.update(path.iterdir())
        if path.parent == journal:
            synced.update(one["path"] for event in journal_events(tree) for one in event.get("files", ()))

    def watched_unlink(name, *, dir_fd):
        path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), name)
        unlinked.append((path.removeprefix(str(tree.root)) in synced, lasting == set(journal.iterdir())))
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "unlink", watched_unlink)
    report = tree.clean()
    assert report.count("removed") == len(unlinked) == 93
    assert all(content for content, _ in unlinked), "unlinked before the journal's content was on disk"
    assert all(name for _, name in unlinked), "unlinked before the journal's name was on disk"


def test_every_announced_file_is_told_removed(tree):
    for number in range(10, 200):
        tree.reservation(f"10.88.0.{number}", f"leak-{number}")
    report = tree.clean()
    events = journal_events(tree)
    announced = [one["path"] for event in events if event["event"] == "announced" for one in event["files"]]
    removed = [path for event in events if event["event"] == "removed" for path in event["paths"]]
    assert sorted(announced) == sorted(removed)
    assert len(removed) == report.count("removed") == 193
    assert max(len(event["files"]) for event in events if event["event"] == "announced") <= removal.BATCH_FILES


def test_a_journal_that_cannot_be_written_stops_before_the_first_unlink(tree):
    tree.state.mkdir()
    (tree.state / "journal").touch()
    report = tree.clean()
    assert report.aborted.reason == "journal"
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_a_full_disk_stops_before_the_first_unlink(tree):
    require_root()
    tree.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tree.state)], check=True)
    try:
        report = tree.clean(observe=at("waiting", lambda: fill(tree.state / "filler")))
        assert report.aborted.reason == "journal"
        assert "No space left" in report.aborted.detail
        assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}
    finally:
        subprocess.run(["umount", str(tree.state)], check=True)


def fill(path):
    free = os.statvfs(path.parent)
    path.write_bytes(b"x" * (free.f_bavail * free.f_bsize))


# What stops a pass


def test_a_second_pass_is_busy_and_leaves_the_first_ones_report(tree):
    inner = []
    first = tree.clean(observe=at("waiting", lambda: inner.append(tree.clean())))
    assert inner[0].aborted.reason == "busy"
    assert first.aborted is None
    assert json.loads((tree.state / "report.json").read_text())["pass_id"] == first.pass_id


def test_a_hold_stops_a_pass_before_it_begins(tree):
    tree.state.mkdir()
    (tree.state / "hold").touch()
    report = tree.clean()
    assert report.aborted.reason == "hold"
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_a_hold_that_appears_stops_before_the_next_batch(tree):
    for number in range(10, 250):
        tree.reservation(f"10.88.0.{number}", f"leak-{number}")
    report = tree.clean(observe=at("recorded", (tree.state / "hold").touch))
    assert report.aborted.reason == "hold"
    gone = 242 - len(remaining(tree))
    assert 0 < gone <= removal.BATCH_FILES
    removed = [path for event in journal_events(tree) if event["event"] == "removed" for path in event["paths"]]
    assert len([path for path in removed if "/networks/" in path]) == gone


def test_a_hold_that_cannot_be_looked_at_stops_every_removal(tree, monkeypatch):
    lstat = os.lstat

    def failing(path, **more):
        if str(path).endswith("/hold"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return lstat(path, **more)

    report = tree.clean(observe=at("asked-again", lambda: monkeypatch.setattr(os, "lstat", failing)))
    assert report.aborted.reason == "hold"
    assert State(str(tree.state)).is_on_hold()
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_a_read_only_network_is_told_and_nothing_is_announced(tree):
    require_root()
    directory = tree.root / "var/lib/cni/networks/cbr0"
    with read_only(directory):
        report = tree.clean()
    assert problems(report) == {"cbr0": "read-only"}
    assert not (tree.state / "journal").exists()
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_what_nobody_foresaw_ends_with_a_report(tree):
    def fail():
        raise RuntimeError("a bug")

    report = tree.clean(observe=at("listed-again", fail))
    assert (report.aborted.reason, report.aborted.detail) == ("internal", "RuntimeError: a bug")
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}
    assert json.loads((tree.state / "report.json").read_text())["aborted"]["reason"] == "internal"


def test_totals_count_over_passes(tree):
    tree.clean()
    tree.clean()
    (tree.state / "hold").touch()
    tree.clean()
    totals = json.loads((tree.state / "totals.json").read_text())
    assert totals["passes"] == {"ok": 2, "aborted": 1}
    assert totals["removed"] == [{"network": "cbr0", "reason": "absent", "count": 1}]


def test_a_pass_writes_only_to_the_state_directory(tree):
    tree.clean(clock=LaterClock(0.0))
    assert {path.name for path in tree.path.iterdir()} == {"root", "state", "sandboxes.json", "pods.json"}
    assert {path.name for path in tree.state.iterdir()} == {"pass.lock", "clock.json", "report.json", "totals.json"}


def test_a_scan_writes_nothing_at_all(tree):
    tree.scan()
    assert not tree.state.exists()


def test_while_one_lock_is_waited_for_no_other_is_held(tree):
    tree.network("net2", subnet="10.99.0.0/24")
    tree.reservation("10.99.0.3", "gone", network="net2", ifname="net1")
    second = os.open(tree.root / "var/lib/cni/networks/net2/lock", os.O_RDONLY)
    first = os.open(tree.root / "var/lib/cni/networks/cbr0/lock", os.O_RDONLY)
    fcntl.flock(second, fcntl.LOCK_EX)
    announced = threading.Event()
    reports = []
    thread = threading.Thread(target=lambda: reports.append(tree.clean(observe=at("announced", announced.set))))
    thread.start()
    until(announced.is_set, what="the announcement")
    until(lambda: locks_waited_for(tree.root / "var/lib/cni/networks/net2/lock"), what="the pass at the second lock")
    taken = []

    def take():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(first, fcntl.LOCK_UN)
            taken.append(thread.is_alive())
        return len(taken) >= 5

    until(take, what="the first lock, again and again")
    os.close(second)
    thread.join(30)
    os.close(first)
    assert all(taken), "the first lock was free only when the pass had given up"
    assert remaining(tree) == {"cbr0/10.88.0.2"}
    assert reports[0].count("failed") == 0


def test_what_cannot_be_removed_is_told(tree):
    require_root()
    results = tree.root / "var/lib/cni/results"
    with read_only(results):
        report = tree.clean()
    assert report.count("failed") == 2
    assert any("Read-only file system" in finding for finding in report.findings)


def test_what_keeps_all_files_is_told_of_some(tree):
    require_root()
    for number in range(4, 44):
        tree.dead(f"gone-{number}", f"10.88.0.{number}")
    results = tree.root / "var/lib/cni/results"
    with read_only(results):
        report = tree.clean()
    assert report.count("failed") > 40
    told = [finding for finding in report.findings if "cannot be removed" in finding]
    assert len(told) == 21
    assert told[-1].startswith("more files")


def test_a_log_that_fails_takes_nothing_of_what_was_removed_out_of_the_report(tree):
    def fail(_record):
        raise RuntimeError("as a time limit that strikes there")

    log = logging.getLogger("workers.removal")
    log.setLevel(logging.INFO)
    log.addFilter(fail)
    try:
        report = tree.clean()
    finally:
        log.removeFilter(fail)
        log.setLevel(logging.NOTSET)
    assert report.aborted.reason == "internal"
    assert remaining(tree) == {"cbr0/10.88.0.2"}
    assert {item.ip for item, _, outcome in report.rows() if outcome == "removed" and item.ip} == {"10.88.0.3"}
