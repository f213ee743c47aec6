"""Which nodes a sweep asks: a message may narrow the operator's list, nothing else."""

import pytest

from tasks.errors import Refused
from tasks.sweep import choose

KNOWN = ("node-2", "node-1", "node-3", "node-1")


def test_without_a_wish_every_known_node_is_asked_once():
    assert choose(KNOWN, None) == ["node-1", "node-2", "node-3"]


def test_a_wish_narrows():
    assert choose(KNOWN, ["node-3", "node-1", "node-3"]) == ["node-1", "node-3"]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        pytest.param(["node-4"], "not among the nodes to sweep: node-4", id="unknown"),
        pytest.param(["node-1", "node-4", "node-5"], r"node-4, node-5 \(2 of 3\)", id="some unknown"),
        pytest.param([], "must be a list of node names", id="none at all"),
        pytest.param("node-1", "must be a list of node names", id="text"),
        pytest.param({"node-1": 1}, "must be a list of node names", id="mapping"),
        pytest.param(["Node_1"], "not the name of a node", id="malformed"),
        pytest.param([None], "not the name of a node", id="null"),
    ],
)
def test_a_wish_that_is_none_is_refused(wanted: object, why: str):
    with pytest.raises(Refused, match=why):
        choose(KNOWN, wanted)


def test_a_control_worker_without_nodes_says_what_it_needs():
    with pytest.raises(Refused, match="CNI_CLEANUP_STATIC_NODES"):
        choose((), None)
