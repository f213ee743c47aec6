"""One pass over small nodes: the rules that need more than one file, or more than one look."""

import base64
import json
import os
import socket

import pytest

from cni.errors import UsageError
from tests.support.nodetree import LaterClock, NodeTree, container_id, remaining, reservations, verdicts
from tests.support.program import read_only


@pytest.fixture
def tree(tmp_path):
    """A node with one live pod, so that there is a canary."""
    tree = NodeTree(tmp_path)
    tree.live("web", "10.88.0.2")
    return tree


class Between(LaterClock):
    """Something happens while the pass waits for its second look."""

    def __init__(self, happens, seconds=3600.0):
        super().__init__(seconds)
        self.happens = happens

    def sleep(self, seconds):
        super().sleep(seconds)
        self.happens()


def test_a_dead_pods_files_go_and_a_live_ones_stay(tree):
    tree.dead("gone", "10.88.0.3")
    report = tree.clean()
    assert report.aborted is None
    assert remaining(tree) == {"cbr0/10.88.0.2"}
    assert verdicts(report)["cbr0/10.88.0.3"] == "leaked/absent/removed"
    left = {path.name for path in (tree.root / "var/lib/cni/results").iterdir()}
    assert not any(container_id("gone") in name for name in left)
    assert len(left) == 2


# Two looks


def test_nothing_leaked_means_no_second_look(tree):
    clock = LaterClock(3600.0)
    tree.clean(clock=clock)
    assert clock.slept == []


def test_the_second_look_comes_after_the_configured_time(tree):
    tree.dead("gone", "10.88.0.3")
    clock = LaterClock(3600.0)
    tree.clean(clock=clock, confirm_after=42.0)
    assert clock.slept == [42.0]


def test_a_file_that_was_written_anew_between_the_looks_stays(tree):
    path = tree.dead("gone", "10.88.0.3")
    content = path.read_bytes()

    def write_anew():
        path.unlink()
        path.write_bytes(content)

    report = tree.clean(clock=Between(write_anew))
    assert path.exists()
    assert verdicts(report)["cbr0/10.88.0.3"] == "undecided/unconfirmed"


def test_a_file_that_was_touched_between_the_looks_stays(tree):
    path = tree.dead("gone", "10.88.0.3")
    report = tree.clean(clock=Between(lambda: os.utime(path, (1.0, 1.0))))
    assert path.exists()
    assert verdicts(report)["cbr0/10.88.0.3"] == "undecided/unconfirmed"


def test_an_address_that_was_given_out_anew_between_the_looks_stays(tree):
    path = tree.dead("gone", "10.88.0.3")

    def next_owner():
        path.unlink()
        tree.live("next", "10.88.0.3")
        tree.settings()

    report = tree.clean(clock=Between(next_owner))
    assert path.read_bytes().startswith(container_id("next").encode())
    assert verdicts(report)["cbr0/10.88.0.3"] == "keep/sandbox"


def test_a_sandbox_that_shows_only_at_the_second_look_keeps_its_file(tree):
    path = tree.dead("slow", "10.88.0.3")

    def appears():
        tree.sandbox("slow")
        tree.settings()

    report = tree.clean(clock=Between(appears))
    assert path.exists()
    assert verdicts(report)["cbr0/10.88.0.3"] == "keep/sandbox"


def test_a_sandbox_that_showed_only_at_the_first_look_keeps_its_file(tree):
    path = tree.dead("ending", "10.88.0.3")
    tree.sandbox("ending")
    tree.dead("gone", "10.88.0.4")

    def ends():
        tree.sandboxes.pop()
        tree.settings()

    tree.clean(clock=Between(ends))
    assert path.exists()
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


def test_a_witness_that_fails_at_the_second_look_ends_the_pass(tree):
    tree.dead("gone", "10.88.0.3")

    def lost():
        tree.sandboxes.clear()
        tree.settings()

    report = tree.clean(clock=Between(lost))
    assert report.aborted.reason == "witness"
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}
    assert verdicts(report)["cbr0/10.88.0.3"] == "undecided/unknown"


def test_a_file_that_came_between_the_looks_is_not_confirmed(tree):
    tree.dead("gone", "10.88.0.3")
    report = tree.clean(clock=Between(lambda: tree.dead("new", "10.88.0.4")), min_age=0.0)
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.4"}
    assert verdicts(report)["cbr0/10.88.0.4"] == "undecided/unconfirmed"


def test_a_second_address_that_came_between_the_looks_keeps_the_first(tree):
    tree.dead("dual", "10.88.0.3")
    tree.clean(clock=Between(lambda: tree.reservation("fd00::3", "dual")), min_age=0.0)
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}


# Age


def test_a_file_younger_than_the_floor_stays(tree):
    tree.dead("gone", "10.88.0.3")
    report = tree.clean(clock=LaterClock(899.0))
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/young"


def test_a_file_of_the_future_is_young_even_without_a_floor(tree):
    tree.dead("gone", "10.88.0.3")
    report = tree.clean(clock=LaterClock(-60.0), min_age=0.0)
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/young"


def test_a_ctime_cannot_be_faked_by_an_old_mtime(tree):
    path = tree.reservation("10.88.0.3", "gone")
    os.utime(path, (1.0, 1.0))
    assert reservations(tree.clean(clock=LaterClock(60.0)))["cbr0/10.88.0.3"] == "undecided/young"


# One id, one decision


def test_dual_stack_reservations_of_a_dead_pod_go_together(tree):
    tree.dead("dual", "10.88.0.3")
    tree.reservation("fd00::3", "dual")
    tree.clean()
    assert remaining(tree) == {"cbr0/10.88.0.2"}


@pytest.mark.parametrize("how", ["young", "hard link", "held by a pod"])
def test_one_reservation_that_may_not_go_keeps_the_others_of_its_id(tree, how):
    tree.dead("dual", "10.88.0.3")
    second = tree.reservation("fd00::3", "dual")
    clock = LaterClock(3600.0)
    if how == "young":
        os.utime(second, (clock.wall_ns() / 1e9 - 5, clock.wall_ns() / 1e9 - 5))
    elif how == "hard link":
        os.link(second, tree.path / "another-link")
    else:
        tree.pod("stranger", "fd00::3")
    report = tree.clean(clock=clock)
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "cbr0/fd00::3"}
    found = reservations(report)
    assert found["cbr0/10.88.0.3"] == found["cbr0/fd00::3"]
    assert not any(text.startswith("leaked") for text in verdicts(report).values())


def test_an_id_in_two_networks_goes_from_both(tree):
    tree.network("net2", subnet="10.99.0.0/24")
    tree.dead("multi", "10.88.0.3")
    tree.reservation("10.99.0.3", "multi", network="net2", ifname="net1")
    report = tree.clean()
    assert report.count("failed") == 0
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def test_an_id_in_a_network_that_the_pass_leaves_out_stays_whole(tree):
    tree.network("net2", subnet="10.99.0.0/24")
    tree.dead("multi", "10.88.0.3")
    tree.reservation("10.99.0.3", "multi", network="net2", ifname="net1")
    tree.dead("gone", "10.88.0.4")
    report = tree.clean(networks=frozenset({"cbr0"}))
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "net2/10.99.0.3"}
    assert [network.problem for network in report.networks] == [None, "skipped"]
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unconfirmed"


def test_an_id_in_a_network_without_a_lock_stays_whole(tree):
    tree.network("net2", subnet="10.99.0.0/24", lock=False)
    tree.dead("multi", "10.88.0.3")
    tree.reservation("10.99.0.3", "multi", network="net2", ifname="net1")
    report = tree.clean()
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "net2/10.99.0.3"}
    assert report.count("failed") > 0


def test_results_stay_while_a_reservation_of_their_id_remains(tree):
    tree.dead("dual", "10.88.0.3")
    tree.pod("stranger", "10.88.0.3")
    report = tree.clean()
    assert not any(text.startswith("leaked") for text in verdicts(report).values())


def test_results_without_a_reservation_are_judged_by_the_same_rules(tree):
    tree.result("half", "10.88.0.3")
    tree.loopback("half")
    report = tree.clean()
    assert (
        sorted(text for name, text in verdicts(report).items() if container_id("half") in name) == ["leaked/absent/removed"] * 2
    )


def test_loopback_results_alone_are_nobodys_of_ours(tree):
    path = tree.loopback("calico-pod")
    tree.dead("gone", "10.88.0.3")
    tree.clean()
    assert path.exists()


def test_results_of_another_ipam_stay(tree):
    config = "eyJuYW1lIjoiY2JyMCIsInR5cGUiOiJicmlkZ2UiLCJpcGFtIjp7InR5cGUiOiJ3aGVyZWFib3V0cyJ9fQ=="
    path = tree.result("other", "10.88.0.3", config=config)
    tree.dead("gone", "10.88.0.4")
    report = tree.clean()
    assert path.exists()
    assert verdicts(report)[f"results/{path.name}"] == "keep/foreign"


def test_a_reservation_of_another_engine_stays(tree):
    tree.reservation("10.88.0.3", "podman")
    tree.result("podman", "10.88.0.3", cniArgs=[["K8S_POD_NAME", "podman"]])
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "keep/foreign"


def test_scratch_files_of_a_dead_sandbox_go_after_its_reservation_and_before_its_results(tree):
    tree.dead("gone", "10.88.0.3")
    flannel = tree.file(f"var/lib/cni/flannel/{container_id('gone')}", b'{"type": "bridge", "ipam": {"type": "host-local"}}')
    torn = tree.file(f"var/lib/cni/multus/{container_id('gone')}", b'[{"Conf": {"ipam"')
    report = tree.clean()
    assert not flannel.exists()
    assert torn.exists()
    order = [report.items[index].kind for index in report.outcomes if report.items[index].container_id == container_id("gone")]
    assert order == ["reservation", "scratch", "result", "result"]


# The API and other networks


def test_the_same_address_in_two_networks_protects_only_its_own(tree):
    tree.network("old")
    tree.dead("gone", "10.88.0.2", network="old")
    tree.clean()
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def test_a_network_whose_running_pod_nobody_can_explain_is_refused(tree):
    tree.network("net2", subnet="10.99.0.0/24")
    tree.dead("gone", "10.99.0.3", network="net2")
    tree.pod("stranger", "10.99.0.77")
    report = tree.clean()
    assert [network.problem for network in report.networks] == [None, "refused"]
    assert reservations(report)["net2/10.99.0.3"] == "undecided/unknown"
    assert any("10.99.0.77" in finding for finding in report.findings)


def test_multus_addresses_hold_a_reservation(tree):
    tree.reservation("10.99.0.3", "second", network="cbr0")
    tree.pod("multi", "10.88.0.9", **{"k8s.v1.cni.cncf.io/network-status": '[{"name": "x", "ips": ["10.99.0.3"]}]'})
    assert reservations(tree.clean())["cbr0/10.99.0.3"] == "keep/pod-ip"


# Namespaces


def test_an_add_under_way_at_both_looks_keeps_files_without_results(tree):
    tree.reservation("10.88.0.3", "failed-add")
    tree.namespace("in-the-making")
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "undecided/unknown"


def test_adds_that_come_and_go_between_the_looks_do_not_keep_a_leak_for_ever(tree):
    tree.reservation("10.88.0.3", "failed-add")
    first = tree.namespace("one")

    def another():
        first.unlink()
        tree.namespace("two")

    tree.clean(clock=Between(another))
    assert remaining(tree) == {"cbr0/10.88.0.2"}


def test_a_living_namespace_of_a_lost_sandbox_keeps_its_file_and_the_way_out_is_told(tree):
    tree.dead("lost", "10.88.0.3")
    tree.namespace("lost")
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "keep/netns"
    assert any("umount /run/netns/cni-lost" in finding for finding in report.findings)


def test_a_not_ready_sandbox_keeps_its_file_and_the_report_says_so(tree):
    tree.dead("crashed", "10.88.0.3")
    tree.sandbox("crashed", state="SANDBOX_NOTREADY")
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "keep/sandbox"
    assert any("NOTREADY" in finding for finding in report.findings)


# Empty files


@pytest.mark.parametrize("data", [b"", b"\0" * 70, b" \r\n"], ids=["empty", "NUL", "white space"])
def test_an_empty_file_that_no_pod_shows_goes(tree, data):
    tree.reservation("10.88.0.3", "", data=data)
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/empty/removed"


def test_an_empty_file_whose_address_a_pod_shows_stays(tree):
    tree.reservation("10.88.0.3", "", data=b"")
    tree.pod("victim", "10.88.0.3")
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "keep/pod-ip"


def test_an_empty_file_whose_address_stands_in_a_listed_sandboxes_results_stays(tree):
    tree.reservation("10.88.0.3", "", data=b"")
    tree.result("web2", "10.88.0.3")
    tree.sandbox("web2")
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "keep/netns"


def test_without_the_api_an_empty_file_stays(tree):
    tree.reservation("10.88.0.3", "", data=b"")
    report = tree.clean(pods_file=None, api="none")
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unknown"


# Limits


def test_at_most_so_many_reservations_go(tree):
    for number in range(3, 8):
        tree.dead(f"gone-{number}", f"10.88.0.{number}")
    report = tree.clean(max_remove=2)
    assert len(remaining(tree)) == 4
    assert sorted(reservations(report).values()).count("leaked/absent/over-limit") == 3
    assert tree.clean(max_remove=0).count("removed") == 0


def test_the_message_can_ask_for_a_dry_run_but_not_against_one(tree):
    from workers import node

    tree.dead("gone", "10.88.0.3")
    asked = node.clean(tree.settings(), dry_run=True, clock=LaterClock(3600.0))
    assert asked.count("dry-run") == 3
    own = node.clean(tree.settings(dry_run=True), dry_run=False, clock=LaterClock(3600.0))
    assert own.count("dry-run") == 3
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3"}


# Other runtimes and engines, and views of the node that show too little


def test_podman_before_4_is_another_engine_though_it_gives_its_own_id(tree):
    tree.reservation("10.88.0.3", "podman")
    args = [["K8S_POD_NAMESPACE", "box"], ["K8S_POD_NAME", "box"], ["K8S_POD_INFRA_CONTAINER_ID", container_id("podman")]]
    tree.result("podman", "10.88.0.3", cniArgs=args)
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "keep/foreign"


def test_results_of_a_network_that_the_pass_leaves_out_stay(tree):
    tree.network("net2", subnet="10.99.0.0/24")
    path = tree.result("half", "10.99.0.3", network="net2")
    tree.dead("gone", "10.88.0.4")
    report = tree.clean(networks=frozenset({"cbr0"}))
    assert path.exists()
    assert verdicts(report)[f"results/{path.name}"] == "undecided/unknown"


def test_results_of_a_network_that_is_kept_elsewhere_stay(tree):
    path = tree.result("half", "10.99.0.3", network="kindnet")
    tree.dead("gone", "10.88.0.4")
    tree.clean()
    assert path.exists()


def test_cleaning_one_network_knows_of_the_reservations_in_the_others(tree):
    tree.network("net2", subnet="10.99.0.0/24")
    tree.dead("multi", "10.88.0.3")
    tree.reservation("10.99.0.3", "multi", network="net2", ifname="net1")
    tree.dead("gone", "10.88.0.4")
    report = tree.clean(cnifiles="/var/lib/cni/networks/cbr0")
    assert remaining(tree) == {"cbr0/10.88.0.2", "cbr0/10.88.0.3", "net2/10.99.0.3"}
    assert {network.name: network.problem for network in report.networks} == {"cbr0": None, "net2": "skipped"}


def test_an_id_with_more_reservations_than_fit_under_one_hold_stays(tree):
    for number in range(3, 70):
        tree.reservation(f"10.88.0.{number}", "many")
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unknown"
    assert any("more than can go together" in finding for finding in report.findings)


def test_a_namespace_that_nobody_names_is_told_where_it_keeps_leaks(tree):
    tree.reservation("10.88.0.3", "failed-add")
    tree.namespace("stray")
    assert any("cni-stray" in finding for finding in tree.clean().findings)


def test_a_pass_that_ends_between_the_looks_calls_nothing_leaked(tree):
    tree.dead("gone", "10.88.0.3")

    def fail():
        raise RuntimeError("a bug")

    report = tree.clean(clock=Between(fail))
    assert report.aborted.reason == "internal"
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unconfirmed"


def test_a_scan_with_a_silent_witness_goes_on_without_a_canary(tree):
    tree.dead("gone", "10.88.0.3")
    report = tree.scan(sandboxes_file=None, runtime_endpoint="unix:///no/such.sock")
    assert report.aborted is None
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unknown"


@pytest.mark.parametrize(
    "path",
    ["/run/netns/a\0b", "/run/" + "x" * 5000, "/run/netns/\ud800", "relative"],
    ids=["NUL", "long", "surrogate", "relative"],
)
def test_an_odd_namespace_path_tells_nothing_and_ends_nothing(tree, path):
    tree.reservation("10.88.0.3", "odd")
    tree.result("odd", "10.88.0.3", result={"interfaces": [{"name": "eth0", "sandbox": path}]})
    report = tree.clean()
    assert report.aborted is None
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/absent/removed"


def test_a_socket_among_the_results_ends_nothing(tree):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)
        os.chdir(tree.root / "var/lib/cni/results")
        try:
            server.bind("odd.sock")
        finally:
            os.fchdir(here)
            os.close(here)
        report = tree.clean()
    assert report.aborted is None
    assert verdicts(report)["results/odd.sock"] == "keep/foreign"


def test_a_looping_link_among_the_configurations_ends_nothing(tree):
    loop = tree.root / "etc/cni/net.d/99-loop.conflist"
    loop.symlink_to(loop.name)
    report = tree.clean()
    assert report.aborted is None
    assert any("99-loop.conflist" in finding for finding in report.findings)


def test_a_network_that_is_named_and_not_there_is_told(tree):
    report = tree.scan(networks=frozenset({"nosuch"}))
    assert any("nosuch" in finding for finding in report.findings)


def test_without_the_api_a_node_without_pod_network_pods_is_told_how_to_go_on(tree):
    tree.sandboxes.clear()
    tree.sandbox("hostnet")
    report = tree.clean(pods_file=None, api="none")
    assert report.aborted.reason == "canary"
    assert "--api external" in report.aborted.detail


def test_a_directory_without_any_file_to_judge_needs_no_canary(tmp_path):
    tree = NodeTree(tmp_path)
    tree.sandbox("elsewhere")
    assert tree.clean(pods_file=None, api="none").aborted is None


def test_a_network_left_out_that_is_a_link_still_holds_scratch_files(tree):
    (tree.root / "var/lib/cni/networks/net2").symlink_to("/nowhere")
    tree.dead("gone", "10.88.0.4")
    scratch = tree.file(f"var/lib/cni/flannel/{container_id('gone')}", b'{"type": "bridge", "ipam": {"type": "host-local"}}')
    report = tree.clean(networks=frozenset({"cbr0"}))
    assert {network.name: network.problem for network in report.networks} == {"cbr0": None, "net2": "refused"}
    assert scratch.exists()


def test_a_podman_container_without_results_is_not_taken_for_a_leak(tree):
    tree.network("podman", subnet="10.89.0.0/16")
    tree.reservation("10.89.0.3", "podman", network="podman")
    tree.file("run/netns/netns-0115b4a5-aa80-c864-3808-5ec9efc77094", b"")
    tree.reservation("10.88.0.3", "failed-add")
    report = tree.clean()
    assert reservations(report)["podman/10.89.0.3"] == "undecided/unknown"
    assert any("netns-0115b4a5" in finding for finding in report.findings)
    # The runtime's own network is not podman's.
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/absent/removed"


def test_no_advice_ends_the_namespace_of_another_engines_container(tree):
    tree.reservation("10.88.0.3", "podman")
    tree.result("podman", "10.88.0.3", cniArgs=[])
    tree.namespace("podman")
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "keep/foreign"
    assert not any("umount" in finding for finding in report.findings)


def test_a_namespace_that_keeps_a_dead_sandboxs_file_is_told_with_what_to_make_sure_of(tree):
    tree.dead("lost", "10.88.0.3")
    tree.namespace("lost")
    (told,) = (finding for finding in tree.clean().findings if "umount" in finding)
    assert container_id("lost")[:13] in told
    assert "other runtime or engine" in told


def test_a_namespace_in_containerds_state_directory_is_an_add_under_way(tree):
    tree.reservation("10.88.0.3", "slow-add")
    tree.file("run/containerd/io.containerd.grpc.v1.cri/netns/cni-slow", b"")
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "undecided/unknown"


def test_leftovers_of_a_dead_multus_pod_go_though_multus_own_network_has_no_directory(tree):
    tree.dead("multi", "10.88.0.3")
    delegate = {"type": "bridge", "ipam": {"type": "host-local"}}
    config = {"name": "multus-cni-network", "type": "multus", "delegates": [delegate]}
    tree.result("multi", network="multus-cni-network", config=base64.b64encode(json.dumps(config).encode()).decode())
    scratch = tree.file(f"var/lib/cni/multus/{container_id('multi')}", json.dumps([delegate]).encode())
    tree.clean()
    assert not scratch.exists()
    left = [path.name for path in (tree.root / "var/lib/cni/results").iterdir()]
    assert not any(container_id("multi") in name for name in left)


def test_a_limit_is_for_addresses_first(tree):
    tree.result("orphan", "10.88.0.9")
    tree.dead("gone", "10.88.0.3")
    report = tree.clean(max_remove=1)
    assert reservations(report)["cbr0/10.88.0.3"] == "leaked/absent/removed"


def test_an_id_that_may_have_an_address_in_a_network_that_cannot_be_read_stays_whole(tree):
    (tree.root / "var/lib/cni/networks/net2").symlink_to("/nowhere")
    tree.dead("dual", "10.88.0.3")
    tree.result("dual", "10.99.0.3", network="net2", ifName="net1")
    report = tree.clean()
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unknown"
    assert "cbr0/10.88.0.3" in remaining(tree)


# A tree that is not what it seems


def seen_by_nobody_but_its_namespace(tree, namespaces):
    """A pod that was made after the witness files, on a node whose later mounts do not show here."""
    tree.live("web", "10.88.0.2")
    namespaces.mount(tree.root / "run/netns/cni-web")
    tree.dead("newer", "10.88.0.3")
    tree.namespace("newer")


def test_in_a_tree_with_mounts_in_it_the_names_of_namespaces_count(tmp_path, namespaces):
    tree = NodeTree(tmp_path)
    seen_by_nobody_but_its_namespace(tree, namespaces)
    assert reservations(tree.scan())["cbr0/10.88.0.3"] == "leaked/absent"
    with read_only(tree.root / "var/lib"):
        assert reservations(tree.scan())["cbr0/10.88.0.3"] == "keep/netns"


def test_another_running_node_below_root_is_no_copy(tree):
    tree.file("proc/sys/kernel/random/boot_id", b"00000000-0000-4000-8000-000000000000\n")
    with pytest.raises(UsageError, match="running node"):
        tree.clean()


def test_a_running_node_that_shows_no_namespaces_keeps_what_has_no_results_files(tree):
    (tree.root / "run/netns/cni-web").unlink()
    (tree.root / "run/netns/.keep").unlink()
    (tree.root / "run/netns").rmdir()
    tree.sandboxes.clear()
    tree.sandbox("hostnet", uid="uid-hostnet")
    tree.pods.clear()
    tree.pod("hostnet", "192.0.2.1", host_network=True)
    tree.reservation("10.88.0.3", "slow-add")
    assert reservations(tree.clean())["cbr0/10.88.0.3"] == "leaked/absent/removed"
    tree.reservation("10.88.0.3", "slow-add")
    tree.file("proc/sys/kernel/random/boot_id", b"00000000-0000-4000-8000-000000000000\n")
    report = tree.clean(dry_run=True)
    assert reservations(report)["cbr0/10.88.0.3"] == "undecided/unknown"
    assert any("HostToContainer" in finding for finding in report.findings)
