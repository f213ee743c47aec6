"""What the witnesses' answers mean for one id: rules 2, 9 and 10."""

import pytest

from cni.attachment import UNREADABLE_PATH, Attachment
from cni.evidence import Answer, ApiEvidence, Look, NamespaceDirectory, NamespaceEvidence, RuntimeEvidence
from cni.listing import Item, Listing, Network, Subject
from cni.netconf import NetworkConfig, parse_network_config
from cni.pods import Pod, Sandbox, SandboxStatus

ID, OTHER = "a" * 64, "b" * 64
PATH = "/run/netns/cni-1"


def attachment(container_id=ID, *namespaces, readable=True, addresses=(), network="cbr0"):
    return Attachment(
        container_id=container_id,
        network=network,
        ifname="eth0",
        namespaces=tuple(namespaces),
        addresses=tuple(addresses),
        by_cri=True,
        readable=readable,
    )


def sandbox(container_id=ID, *, ready=True, uid="uid-1"):
    return Sandbox(id=container_id, ready=ready, pod_uid=uid, pod="default/pod")


def pod(*addresses, uid="uid-1", runtime_uid=None, running=True, finished=False, host_network=False, garbled=False):
    return Pod(
        uid=uid,
        name="default/pod",
        runtime_uid=runtime_uid or uid,
        running=running,
        finished=finished,
        host_network=host_network,
        addresses=frozenset(addresses),
        garbled=garbled,
    )


def reservation(ip, container_id=ID, network="cbr0"):
    directory = f"/var/lib/cni/networks/{network}"
    return Item("reservation", directory, ip, network, Subject.SANDBOX, container_id, "eth0", b"", None)


def listed(*sandboxes, **more):
    return RuntimeEvidence(sandboxes={one.id: one for one in sandboxes}, **more)


def namespaces(**directories):
    """`run_netns=NamespaceDirectory(...)`: by path with underscores."""
    return NamespaceEvidence(directories={"/" + name.replace("_", "/"): value for name, value in directories.items()})


def look(*, items=(), attachments=(), runtime=None, netns=None, api=None, networks=()):
    by_id: dict[str, list[Attachment]] = {}
    for one in attachments:
        by_id.setdefault(one.container_id, []).append(one)
    return Look(
        Listing(items=list(items), attachments=by_id, networks=list(networks)),
        runtime=runtime or listed(),
        namespaces=netns or namespaces(run_netns=NamespaceDirectory()),
        api=api or ApiEvidence(),
        now_ns=0,
        settled=True,
    )


MOUNTED = NamespaceDirectory(names=frozenset({"cni-1", "cni-2"}), mounted=frozenset({"cni-1"}))


class TestNetns:
    def test_a_mounted_namespace_of_any_results_file_is_seen(self):
        files = [attachment(ID, "/run/netns/cni-gone"), attachment(ID, PATH, network="cni-loopback")]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.SEEN

    def test_the_loopback_results_file_alone_is_enough(self):
        files = [attachment(ID, PATH, network="cni-loopback")]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.SEEN

    def test_a_name_that_is_not_mounted_is_absent_while_others_are(self):
        files = [attachment(ID, "/run/netns/cni-2")]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.ABSENT

    def test_where_nothing_is_mounted_existence_counts(self):
        copied = NamespaceDirectory(names=frozenset({"cni-1"}))
        files = [attachment(ID, PATH)]
        assert look(attachments=files, netns=namespaces(run_netns=copied)).netns_of(ID, ()) is Answer.SEEN

    def test_with_the_runtime_off_existence_counts(self):
        files = [attachment(ID, "/run/netns/cni-2")]
        off = RuntimeEvidence(off=True)
        assert look(attachments=files, runtime=off, netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.SEEN

    def test_a_missing_directory_is_unknown(self):
        files = [attachment(ID, "/run/other/cni-1")]
        found = look(attachments=files, netns=namespaces(run_netns=MOUNTED, run_other=None))
        assert found.netns_of(ID, ()) is Answer.UNKNOWN

    def test_a_directory_that_nobody_looked_at_is_unknown(self):
        files = [attachment(ID, "/run/other/cni-1")]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.UNKNOWN

    @pytest.mark.parametrize(
        "torn",
        [attachment(ID, readable=False), attachment(ID), attachment(ID, UNREADABLE_PATH)],
        ids=["torn", "no path", "no readable path"],
    )
    def test_a_file_that_does_not_tell_is_silent(self, torn):
        assert look(attachments=[torn], netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.SILENT

    def test_a_path_of_a_process_is_unknown_unless_the_runtime_that_names_them_so_was_asked(self):
        """A Docker that was left running beside the containerd that took its place: its containers are in nobody's list."""
        files = [attachment(ID, "/proc/7/ns/net")]
        found = look(attachments=files, runtime=listed(sandbox(OTHER)), netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of(ID, ()) is Answer.UNKNOWN
        assert any("cri-dockerd" in remark for remark in found.remarks())
        asked = look(attachments=files, runtime=listed(sandbox(OTHER), names_processes=True), netns=namespaces(run_netns=MOUNTED))
        assert asked.netns_of(ID, ()) is Answer.SILENT
        assert asked.remarks() == []

    def test_one_torn_file_beside_a_good_one_is_silent_and_not_absent(self):
        files = [attachment(ID, "/run/netns/cni-2"), attachment(ID, readable=False)]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of(ID, ()) is Answer.SILENT

    def test_without_results_files_an_unnamed_namespace_is_unknown(self):
        found = look(netns=namespaces(run_netns=MOUNTED))
        assert found.unnamed_namespaces == {PATH}
        assert found.netns_of(ID, found.unnamed_namespaces) is Answer.UNKNOWN
        assert found.netns_of(ID, ()) is Answer.SILENT

    def test_a_uuid_is_a_pods_namespace_and_other_names_are_not(self):
        uuid = "0115b4a5-aa80-c864-3808-5ec9efc77094"
        names = frozenset({uuid, "blue", ".keep"})
        found = look(netns=namespaces(run_netns=NamespaceDirectory(names=names, mounted=names)))
        assert found.unnamed_namespaces == {f"/run/netns/{uuid}"}

    def test_a_namespace_that_is_not_mounted_is_no_add_under_way(self):
        found = look(attachments=[attachment(OTHER, PATH)], netns=namespaces(run_netns=MOUNTED))
        assert found.unnamed_namespaces == frozenset()

    def test_if_no_namespace_of_a_ready_sandbox_exists_the_whole_witness_is_unknown(self):
        files = [attachment(OTHER, "/run/netns/cni-9"), attachment(ID, "/run/netns/cni-8")]
        found = look(attachments=files, runtime=listed(sandbox(OTHER)), netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of(ID, ()) is Answer.UNKNOWN
        assert "mounted?" in found.witnesses()["netns"]

    def test_a_not_ready_sandbox_is_not_expected_to_have_a_namespace(self):
        files = [attachment(OTHER, "/run/netns/cni-9"), attachment(ID, "/run/netns/cni-8")]
        found = look(attachments=files, runtime=listed(sandbox(OTHER, ready=False)), netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of(ID, ()) is Answer.ABSENT

    def test_with_the_runtime_off_one_named_namespace_must_exist(self):
        files = [attachment(ID, "/run/netns/cni-8")]
        found = look(attachments=files, runtime=RuntimeEvidence(off=True), netns=namespaces(run_netns=NamespaceDirectory()))
        assert found.netns_of(ID, ()) is Answer.UNKNOWN

    def test_a_witness_that_failed_is_unknown_for_every_id(self):
        assert look(netns=NamespaceEvidence(unknown="no")).netns_of(ID, ()) is Answer.UNKNOWN


class TestRuntime:
    @pytest.mark.parametrize("ready", [True, False])
    def test_a_sandbox_in_any_state_is_seen(self, ready):
        assert listed(sandbox(ready=ready)).of(ID) is Answer.SEEN

    def test_seen_by_one_runtime_while_another_failed_is_seen_and_the_rest_unknown(self):
        partly = listed(sandbox(), unknown="the other one hangs")
        assert partly.of(ID) is Answer.SEEN
        assert partly.of(OTHER) is Answer.UNKNOWN

    def test_off_is_not_absent(self):
        assert RuntimeEvidence(off=True).of(ID) is Answer.OFF


class TestApi:
    def test_a_pods_address_is_seen(self):
        assert look(api=ApiEvidence(pods=[pod("10.88.0.2")])).api_of(["10.88.0.2"]) is Answer.SEEN

    def test_a_host_network_pod_holds_no_address(self):
        assert look(api=ApiEvidence(pods=[pod("10.88.0.2", host_network=True)])).api_of(["10.88.0.2"]) is Answer.ABSENT

    def test_an_explained_address_holds_no_other_file(self):
        items = [reservation("10.88.0.2", ID, "old"), reservation("10.88.0.2", OTHER, "new")]
        api = ApiEvidence(pods=[pod("10.88.0.2")])
        found = look(items=items, runtime=listed(sandbox(OTHER)), api=api)
        assert found.api_of(["10.88.0.2"]) is Answer.ABSENT

    def test_a_mirror_pod_is_explained_by_its_config_hash(self):
        items = [reservation("10.88.0.2", OTHER)]
        api = ApiEvidence(pods=[pod("10.88.0.2", uid="mirror", runtime_uid="hash")])
        assert look(items=items, runtime=listed(sandbox(OTHER, uid="hash")), api=api).held_addresses == frozenset()
        assert look(items=items, runtime=listed(sandbox(OTHER, uid="mirror")), api=api).held_addresses == {"10.88.0.2"}

    def test_an_address_reserved_for_another_pods_sandbox_explains_nothing(self):
        items = [reservation("10.88.0.2", OTHER)]
        found = look(items=items, runtime=listed(sandbox(OTHER, uid="uid-2")), api=ApiEvidence(pods=[pod("10.88.0.2")]))
        assert found.held_addresses == {"10.88.0.2"}

    def test_a_finished_pod_counts_only_with_a_ready_sandbox_or_the_runtime_off(self):
        api = ApiEvidence(pods=[pod("10.88.0.2", finished=True, running=False)])
        assert look(api=api, runtime=listed(sandbox(OTHER, uid="uid-2"))).held_addresses == frozenset()
        assert look(api=api, runtime=listed(sandbox(OTHER, ready=False))).held_addresses == frozenset()
        assert look(api=api, runtime=listed(sandbox(OTHER))).held_addresses == {"10.88.0.2"}
        assert look(api=api, runtime=RuntimeEvidence(off=True)).held_addresses == {"10.88.0.2"}

    def test_a_garbled_annotation_is_unknown_only_while_the_runtime_is_off(self):
        api = ApiEvidence(pods=[pod(garbled=True)])
        assert look(api=api, runtime=RuntimeEvidence(off=True)).api_of(["10.88.0.2"]) is Answer.UNKNOWN
        assert look(api=api, runtime=listed(sandbox())).api_of(["10.88.0.2"]) is Answer.ABSENT

    def test_off_is_not_absent(self):
        assert look(api=ApiEvidence(off=True)).api_of(["10.88.0.2"]) is Answer.OFF


class TestEmptyFiles:
    def test_the_status_of_a_sandbox_that_has_the_address_is_seen(self):
        runtime = listed(sandbox(), live=True, statuses={ID: SandboxStatus(host_network=False, addresses=("10.88.0.2",))})
        assert look(runtime=runtime).runtime_of_address("10.88.0.2") is Answer.SEEN
        assert look(runtime=runtime).runtime_of_address("10.88.0.3") is Answer.ABSENT

    def test_a_sandbox_whose_status_is_not_known_makes_it_unknown(self):
        assert look(runtime=listed(sandbox(), live=True)).runtime_of_address("10.88.0.2") is Answer.UNKNOWN

    @pytest.mark.parametrize(
        ("evidence", "answer"), [(RuntimeEvidence(off=True), Answer.OFF), (RuntimeEvidence(unknown="x"), Answer.UNKNOWN)]
    )
    def test_no_list_is_no_answer(self, evidence, answer):
        assert look(runtime=evidence).runtime_of_address("10.88.0.2") is answer

    def test_the_results_of_a_listed_sandbox_hold_their_address(self):
        files = [attachment(ID, PATH, addresses=["10.88.0.2"])]
        found = look(attachments=files, runtime=listed(sandbox()), netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of_address("10.88.0.2") is Answer.SEEN
        assert found.netns_of_address("10.88.0.3") is Answer.ABSENT

    def test_the_results_of_a_mounted_namespace_hold_their_address(self):
        files = [attachment(ID, PATH, addresses=["10.88.0.2"])]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of_address("10.88.0.2") is Answer.SEEN

    def test_the_results_of_a_dead_sandbox_hold_nothing(self):
        files = [attachment(ID, "/run/netns/cni-2", addresses=["10.88.0.2"])]
        assert look(attachments=files, netns=namespaces(run_netns=MOUNTED)).netns_of_address("10.88.0.2") is Answer.ABSENT

    def test_the_results_of_a_process_hold_their_address_unless_its_runtime_was_asked(self):
        files = [attachment(ID, "/proc/7/ns/net", addresses=["10.88.0.2"])]
        found = look(attachments=files, runtime=listed(sandbox(OTHER)), netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of_address("10.88.0.2") is Answer.UNKNOWN
        assert found.netns_of_address("10.88.0.3") is Answer.ABSENT
        asked = listed(sandbox(OTHER), names_processes=True)
        found = look(attachments=files, runtime=asked, netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of_address("10.88.0.2") is Answer.ABSENT

    def test_a_torn_results_file_of_a_listed_sandbox_makes_it_unknown(self):
        files = [attachment(ID, readable=False)]
        found = look(attachments=files, runtime=listed(sandbox()), netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of_address("10.88.0.2") is Answer.UNKNOWN


class TestCanary:
    def test_the_own_pod_must_be_in_both_lists(self):
        own = {"runtime": listed(sandbox(uid="me")), "api": ApiEvidence(pods=[pod(uid="me")])}
        assert look(**own).canary(pod_uid="me", in_cluster=True) is None
        assert "runtime" in look(**{**own, "runtime": listed(sandbox(uid="x"))}).canary(pod_uid="me", in_cluster=True)
        assert "API" in look(**{**own, "api": ApiEvidence(pods=[pod(uid="x")])}).canary(pod_uid="me", in_cluster=True)

    def test_a_list_that_is_off_is_not_asked_for_the_own_pod(self):
        found = look(runtime=RuntimeEvidence(off=True), api=ApiEvidence(pods=[pod(uid="me")]))
        assert found.canary(pod_uid="me", in_cluster=True) is None

    def test_in_a_cluster_without_the_own_pods_uid_it_refuses(self):
        found = look(items=[reservation("10.88.0.2")], runtime=listed(sandbox()))
        assert "POD_UID" in found.canary(pod_uid=None, in_cluster=True)

    def test_elsewhere_one_reservation_must_be_seen_by_the_runtime(self):
        items = [reservation("10.88.0.2")]
        assert look(items=items, runtime=listed(sandbox())).canary(pod_uid=None, in_cluster=False) is None
        assert look(items=items, runtime=listed(sandbox(OTHER))).canary(pod_uid=None, in_cluster=False) is not None

    def test_elsewhere_a_namespace_or_a_pod_does_not_speak_for_the_runtime(self):
        api = ApiEvidence(pods=[pod("10.88.0.2")])
        found = look(items=[reservation("10.88.0.2")], runtime=listed(sandbox(OTHER)), api=api)
        assert found.canary(pod_uid=None, in_cluster=False) is not None

    def test_with_the_runtime_off_any_witness_will_do(self):
        found = look(
            items=[reservation("10.88.0.2")], runtime=RuntimeEvidence(off=True), api=ApiEvidence(pods=[pod("10.88.0.2")])
        )
        assert found.canary(pod_uid=None, in_cluster=False) is None
        assert look(items=[reservation("10.88.0.2")], runtime=RuntimeEvidence(off=True)).canary(pod_uid=None, in_cluster=False)

    @pytest.mark.parametrize(
        "runtime",
        [
            listed(sandbox(OTHER, ready=False)),
            listed(sandbox(OTHER), statuses={OTHER: SandboxStatus(host_network=True, addresses=())}),
        ],
        ids=["not ready", "host network by its status"],
    )
    def test_a_node_without_pod_network_sandboxes_needs_no_canary(self, runtime):
        assert look(items=[reservation("10.88.0.2")], runtime=runtime).canary(pod_uid=None, in_cluster=False) is None

    def test_a_host_network_sandbox_is_told_by_its_pod(self):
        api = ApiEvidence(pods=[pod(host_network=True)])
        found = look(items=[reservation("10.88.0.2")], runtime=listed(sandbox(OTHER)), api=api)
        assert found.canary(pod_uid=None, in_cluster=False) is None


class TestRefusal:
    def network(self):
        config = parse_network_config(
            b'{"name": "cbr0", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.88.0.0/16"}}'
        )
        assert isinstance(config, NetworkConfig)
        return Network(name="cbr0", directory="/var/lib/cni/networks/cbr0", config=config)

    def test_a_running_pod_with_an_unexplained_address_refuses_a_network_nobody_knows(self):
        items = [reservation("10.88.0.2")]
        found = look(items=items, api=ApiEvidence(pods=[pod("10.88.0.9")]))
        assert "10.88.0.9" in found.refuses(self.network(), items)

    def test_one_known_reservation_is_enough(self):
        items = [reservation("10.88.0.2"), reservation("10.88.0.3", OTHER)]
        found = look(items=items, runtime=listed(sandbox(OTHER, uid="x")), api=ApiEvidence(pods=[pod("10.88.0.9")]))
        assert found.refuses(self.network(), items) is None

    @pytest.mark.parametrize(
        "stranger",
        [pod("10.99.0.9"), pod("10.88.0.9", running=False), pod("10.88.0.9", host_network=True)],
        ids=["another range", "pending", "host network"],
    )
    def test_other_pods_refuse_nothing(self, stranger):
        items = [reservation("10.88.0.2")]
        assert look(items=items, api=ApiEvidence(pods=[stranger])).refuses(self.network(), items) is None


class TestMissedMounts:
    """A view of /run/netns that does not follow the node's mounts shows living namespaces as mere names."""

    def test_names_count_where_later_mounts_do_not_show(self):
        stale = NamespaceDirectory(names=MOUNTED.names, mounted=MOUNTED.mounted, follows_mounts=False)
        found = look(attachments=[attachment(ID, "/run/netns/cni-2")], netns=namespaces(run_netns=stale))
        assert found.netns_of(ID, ()) is Answer.SEEN
        assert any("HostToContainer" in remark for remark in found.remarks())

    def test_names_count_where_a_running_sandboxes_own_is_not_mounted(self):
        names = frozenset({"cni-1", "cni-2", "cni-3"})
        stale = NamespaceDirectory(names=names, mounted=frozenset({"cni-1"}))
        files = [attachment(OTHER, "/run/netns/cni-2"), attachment(ID, "/run/netns/cni-3")]
        assert (
            look(attachments=files, runtime=listed(sandbox(OTHER)), netns=namespaces(run_netns=stale)).netns_of(ID, ())
            is Answer.SEEN
        )

    def test_paths_in_proc_are_not_expected_to_be_seen(self):
        files = [attachment(OTHER, "/proc/7/ns/net"), attachment(ID, "/proc/8/ns/net")]
        by_process = listed(sandbox(OTHER), names_processes=True)
        found = look(attachments=files, runtime=by_process, netns=namespaces(run_netns=NamespaceDirectory()))
        assert found.netns_of(ID, ()) is Answer.SILENT

    def test_a_torn_file_is_no_better_than_none_while_an_add_is_under_way(self):
        found = look(attachments=[attachment(ID, readable=False)], netns=namespaces(run_netns=MOUNTED))
        assert found.netns_of(ID, found.unnamed_namespaces) is Answer.UNKNOWN

    def test_sandboxes_without_results_files_are_remarked(self):
        found = look(items=[reservation("10.88.0.2")], runtime=listed(sandbox()))
        assert any("results file" in remark for remark in found.remarks())

    def test_a_garbled_annotation_is_remarked_with_the_runtime_on(self):
        found = look(runtime=listed(sandbox()), api=ApiEvidence(pods=[pod(garbled=True)]))
        assert any("annotation" in remark for remark in found.remarks())
