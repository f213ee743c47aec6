"""A node of CRI-O, which from 1.32 on reads the results files itself: they stay, and scratch files with them (rule 6)."""

import pytest

from tests.support import cri_server as cri
from tests.support.nodetree import NodeTree, container_id, remaining, verdicts

OFF = {"sandboxes_file": None, "runtime_endpoint": "none"}


@pytest.fixture
def tree(tmp_path):
    """A node with one live pod and a leak that has every kind of file."""
    tree = NodeTree(tmp_path)
    tree.live("web", "10.88.0.2")
    tree.dead("gone", "10.88.0.3")
    tree.file(f"var/lib/cni/flannel/{container_id('gone')}", b'{"type": "bridge", "ipam": {"type": "host-local"}}')
    return tree


def leftovers(report):
    """What was decided of the results and the scratch file of the leak."""
    return [
        text
        for name, text in verdicts(report).items()
        if container_id("gone") in name and name.startswith(("results/", "flannel/"))
    ]


@pytest.mark.parametrize("runtime", ["a file", "off"])
@pytest.mark.parametrize("place", ["run/crio", "etc/crio"])
def test_where_nobody_tells_the_version_a_crio_keeps_results_and_scratch_files(tree, place, runtime):
    (tree.root / place).mkdir(parents=True)
    report = tree.clean(**(OFF if runtime == "off" else {}))
    assert leftovers(report) == ["keep/foreign"] * 3
    assert remaining(tree) == {"cbr0/10.88.0.2"}
    assert len(list((tree.root / "var/lib/cni/results").iterdir())) == 4
    assert len(list((tree.root / "var/lib/cni/flannel").iterdir())) == 1


@pytest.mark.parametrize("runtime", ["a file", "off"])
def test_without_a_crio_they_go(tree, runtime):
    report = tree.clean(**(OFF if runtime == "off" else {}))
    assert leftovers(report) == ["leaked/absent/removed"] * 3
    assert remaining(tree) == {"cbr0/10.88.0.2"}


@pytest.mark.parametrize(
    ("version", "verdict"), [("1.31.9", "leaked/absent/removed"), ("1.32.0", "keep/foreign")], ids=["1.31", "1.32"]
)
def test_a_crio_that_tells_its_version_keeps_them_from_1_32_on(tree, cri_server, version, verdict):
    (tree.root / "run/crio").mkdir()
    web = cri.Sandbox(id=container_id("web"), name="web", uid="uid-web")
    cri_server.change(sandboxes=(web,), runtime_name="cri-o", runtime_version=version)
    report = tree.clean(sandboxes_file=None, runtime_endpoint=cri_server.endpoint)
    assert leftovers(report) == [verdict] * 3
    assert remaining(tree) == {"cbr0/10.88.0.2"}
