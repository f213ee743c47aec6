"""What the real host-local does with its files: the facts that reading, locking and removing are built on."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fixtures import MakeHostLocal
from tests.support.plugin import (
    Attachment,
    HostLocal,
    PluginError,
    finish,
    lock_waiters,
    write_loopback_result,
    write_result,
)
from tests.support.polling import until

ID, OTHER, THIRD = "ab" * 32, "cd" * 32, "ef" * 32
SMALL = (("10.88.0.0/29",),)  # .1 is the gateway, .2 to .6 are given


@pytest.fixture
def network(host_local: MakeHostLocal) -> HostLocal:
    return host_local("cbr0", SMALL)


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    """Hold flock(2) on a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def reservations(network: HostLocal) -> dict[str, bytes]:
    """Return the content of the files that are named for an address."""
    files = (path for path in network.directory.iterdir() if path.name[0].isdigit() or ":" in path.name)
    return {path.name: path.read_bytes() for path in files}


def test_a_reservation_holds_id_and_interface_without_a_final_newline(network: HostLocal):
    assert network.add(ID) == ("10.88.0.2",)
    assert reservations(network) == {"10.88.0.2": f"{ID}\r\neth0".encode()}


def test_the_first_add_makes_an_empty_lock_and_remembers_the_address(network: HostLocal):
    network.add(ID)
    assert network.lock.read_bytes() == b""
    assert (network.directory / "last_reserved_ip.0").read_bytes() == b"10.88.0.2"
    assert {path.name for path in network.directory.iterdir()} == {"10.88.0.2", "last_reserved_ip.0", "lock"}


def test_a_delete_makes_the_directory_and_its_lock_too(network: HostLocal):
    network.delete(ID)
    assert [path.name for path in network.directory.iterdir()] == ["lock"]


def test_dual_stack_reserves_one_address_of_each_family(host_local: MakeHostLocal):
    network = host_local("dual", (("10.88.0.0/24",), ("fd00:88::/64",)))
    assert network.add(ID) == ("10.88.0.2", "fd00:88::2")
    assert reservations(network).keys() == {"10.88.0.2", "fd00:88::2"}
    assert (network.directory / "last_reserved_ip.1").read_bytes() == b"fd00:88::2"
    network.delete(ID)
    assert reservations(network) == {}


def test_whatever_has_the_name_of_an_address_takes_it(network: HostLocal):
    network.delete(ID)
    (network.directory / "10.88.0.2").touch()
    (network.directory / "10.88.0.3").symlink_to("nowhere")
    (network.directory / "10.88.0.4").mkdir()
    assert network.add(ID) == ("10.88.0.5",)


def test_a_freed_address_is_not_given_again_at_once(network: HostLocal):
    network.add(ID)
    network.delete(ID)
    assert network.add(OTHER) == ("10.88.0.3",)


def test_an_exhausted_range_is_an_error_that_says_so(network: HostLocal):
    for number in range(5):
        network.add(f"{number:064x}")
    with pytest.raises(PluginError, match=r"no IP addresses available in range set: 10\.88\.0\.1-10\.88\.0\.6"):
        network.add(ID)


def test_an_id_cannot_add_twice(network: HostLocal):
    network.add(ID)
    with pytest.raises(PluginError, match="duplicate allocation is not allowed"):
        network.add(ID)
    assert network.add(ID, "net1") == ("10.88.0.3",)


def test_a_delete_goes_by_content_and_leaves_the_next_owner_alone(network: HostLocal):
    network.add(ID)
    (network.directory / "10.88.0.2").write_bytes(f"{OTHER}\r\neth0".encode())
    network.delete(ID)
    assert reservations(network).keys() == {"10.88.0.2"}
    network.delete(OTHER)
    assert reservations(network) == {}


@pytest.mark.parametrize(
    ("content", "freed"),
    [(ID, True), (f"{ID}\r\neth0\r\n", True), (f"{ID}\neth0", False), (f"{ID}\r\neth1", False), ("", False)],
    ids=["id alone", "final newline", "LF only", "other interface", "empty"],
)
def test_a_delete_knows_the_old_format_and_no_other(network: HostLocal, content: str, freed: bool):
    network.delete(THIRD)
    (network.directory / "10.88.0.2").write_bytes(content.encode())
    network.delete(ID)
    assert (reservations(network) == {}) is freed


def test_a_delete_reaches_into_sub_directories(network: HostLocal):
    network.add(ID)
    kept = network.directory / "kept"
    kept.mkdir()
    (network.directory / "10.88.0.2").rename(kept / "10.88.0.2")
    with pytest.raises(PluginError, match="duplicate allocation"):
        network.add(ID)
    network.delete(ID)
    assert list(kept.iterdir()) == []


def test_flock_on_the_lock_file_keeps_add_and_delete_waiting(network: HostLocal):
    network.add(ID)
    with flocked(network.lock):
        added, deleted = network.start("ADD", OTHER), network.start("DEL", ID)
        until(lambda: lock_waiters(network.lock) == 2, what="both plugins wait for the lock")
        assert reservations(network).keys() == {"10.88.0.2"}
    finish(added)
    finish(deleted)
    assert reservations(network).keys() == {"10.88.0.3"}


def test_a_posix_lock_does_not_keep_it_waiting(network: HostLocal):
    network.add(ID)
    with network.lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert network.add(OTHER) == ("10.88.0.3",)


def test_flock_on_the_directory_does_not_keep_it_waiting(network: HostLocal):
    network.add(ID)
    with flocked(network.directory):
        assert network.add(OTHER) == ("10.88.0.3",)


def test_a_killed_plugin_lets_go_of_its_place_in_the_queue(network: HostLocal):
    network.add(ID)
    with flocked(network.lock):
        waiting = network.start("ADD", OTHER)
        until(lambda: lock_waiters(network.lock) == 1, what="the plugin waits for the lock")
        waiting.kill()
        with pytest.raises(PluginError, match="exit status -9"):
            finish(waiting)
        assert lock_waiters(network.lock) == 0
    assert network.add(THIRD) == ("10.88.0.3",)


def test_plugins_side_by_side_never_share_an_address(host_local: MakeHostLocal):
    network = host_local()
    running = [network.start("ADD", f"{number:064x}") for number in range(20)]
    given = [finish(process)["ips"][0]["address"] for process in running]
    assert len(set(given)) == 20
    assert len(reservations(network)) == 20


def test_an_unusable_network_is_reported_in_the_plugins_words(host_local: MakeHostLocal):
    with pytest.raises(PluginError, match="invalid range set"):
        host_local("cbr0", (("10.88.0.0/32",),)).add(ID)


@pytest.mark.parametrize("form", ["netns", "sandbox", "bare"])
def test_results_files_are_as_libcni_leaves_them(tmp_path: Path, form: str):
    netns = "/var/run/netns/cni-0d5c6f86-b853-d85c-3bc6-790219ad119f"
    attachment = Attachment(container_id=ID, netns=netns)
    results = tmp_path / "results"
    path = write_result(results, attachment, form=form)  # type: ignore[arg-type]
    loopback = write_loopback_result(results, attachment, form=form)  # type: ignore[arg-type]
    assert (path.name, loopback.name) == (f"cbr0-{ID}-eth0", f"cni-loopback-{ID}-lo")
    for each in (path, loopback):
        assert each.stat().st_mode & 0o7777 == 0o600
        keys = re.findall(r'"(kind|netns|cniArgs|sandbox)":', each.read_text())
        expected = {
            "netns": ["kind", "netns", "cniArgs", "sandbox"],
            "sandbox": ["kind", "cniArgs", "sandbox"],
            "bare": ["sandbox"],
        }
        assert keys == expected[form]
        assert netns in each.read_text()
    assert results.stat().st_mode & 0o7777 == 0o700
