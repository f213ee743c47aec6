"""What a real runtime leaves on its node: the lab does to it what happens to nodes."""

from tests.support.namespaces import mount_points
from tests.support.nodelab import CNI, NETNS, NodeLab


def results(sandbox_id: str) -> set[str]:
    return {path.name for path in (CNI / "results").glob(f"*{sandbox_id}*")}


def test_a_sandbox_has_a_reservation_results_files_and_a_mounted_namespace(node_lab: NodeLab):
    sandbox_id = node_lab.run("web")
    (address,) = node_lab.addresses(sandbox_id)
    assert (node_lab.network / address).read_bytes() == f"{sandbox_id}\r\neth0".encode()
    assert results(sandbox_id) == {f"labnet-{sandbox_id}-eth0", f"cni-loopback-{sandbox_id}-lo"}
    assert list(mount_points(NETNS).values()) == ["nsfs"]
    (listed,) = node_lab.sandboxes()
    assert (listed.id, listed.ready, listed.name) == (sandbox_id, True, "web")


def test_stopping_frees_the_address_and_removing_forgets_the_sandbox(node_lab: NodeLab):
    sandbox_id = node_lab.run("web")
    node_lab.stop(sandbox_id)
    assert node_lab.addresses(sandbox_id) == set()
    assert results(sandbox_id) == set()
    assert [listed.ready for listed in node_lab.sandboxes()] == [False]
    node_lab.rm(sandbox_id)
    assert node_lab.sandboxes() == []


def test_after_a_power_cut_the_sandbox_is_listed_and_keeps_its_files_without_a_namespace(node_lab: NodeLab):
    sandbox_id = node_lab.run("web")
    node_lab.crash()
    assert not node_lab.alive()
    node_lab.up()
    (listed,) = node_lab.sandboxes()
    assert (listed.id, listed.ready) == (sandbox_id, False)
    assert len(node_lab.addresses(sandbox_id)) == 1
    assert len(results(sandbox_id)) == 2
    assert mount_points(NETNS) == {}


def test_a_lost_runtime_knows_nothing_and_its_files_stay(node_lab: NodeLab):
    lost = node_lab.run("web")
    node_lab.lose()
    node_lab.up()
    live = node_lab.run("web")
    assert [listed.id for listed in node_lab.sandboxes()] == [live]
    assert len(node_lab.addresses(lost)) == 1
    assert len(results(lost)) == 2
