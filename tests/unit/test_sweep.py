"""Which nodes a sweep asks: a message may narrow what there is, nothing else."""

import pytest

from tasks.discovery import Nodes
from tasks.errors import Refused
from tasks.sweep import choose, wanted_nodes

THERE = Nodes(eligible=("node-1", "node-2", "node-3"), skipped={"node-w": "runs windows"})


def test_without_a_wish_every_node_is_asked_that_runs_the_worker():
    assert wanted_nodes(None) is None
    assert choose(THERE, None) == ["node-1", "node-2", "node-3"]


def test_a_wish_narrows():
    assert choose(THERE, wanted_nodes(["node-3", "node-1", "node-3"])) == ["node-1", "node-3"]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        pytest.param(["node-4"], "not among the nodes to sweep: node-4", id="unknown"),
        pytest.param(["node-1", "node-4", "node-5"], r"node-4, node-5 \(2 of 3\)", id="some unknown"),
        pytest.param(["node-1", "node-w"], r"never swept: node-w \(runs windows\)", id="one that never runs the worker"),
        pytest.param([], "must be a list of node names", id="none at all"),
        pytest.param("node-1", "must be a list of node names", id="text"),
        pytest.param({"node-1": 1}, "must be a list of node names", id="mapping"),
        pytest.param(["Node_1"], "not the name of a node", id="malformed"),
        pytest.param([None], "not the name of a node", id="null"),
    ],
)
def test_a_wish_that_is_none_is_refused(wanted: object, why: str):
    with pytest.raises(Refused, match=why):
        choose(THERE, wanted_nodes(wanted))


def test_a_cluster_in_which_no_node_runs_the_worker_is_not_swept():
    with pytest.raises(Refused, match="of which none runs the worker"):
        choose(Nodes(eligible=(), skipped=THERE.skipped), None)
