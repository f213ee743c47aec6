"""Names come from messages: what is none is refused, with one line that says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import names
from tasks.errors import Refused


@pytest.mark.parametrize("name", ["node-7", "n", "7", "a.b", "ip-10-0-0-1.eu-west-1.compute.internal", "a" * 253])
def test_a_kubernetes_node_name_is_taken_as_it_is(name: str):
    assert names.node_name(name) == name
    assert names.queue_for(name) == f"node.{name}"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("Node-7", id="capital"),
        pytest.param("node_7", id="underscore"),
        pytest.param("-node", id="leading hyphen"),
        pytest.param("node-", id="trailing hyphen"),
        pytest.param("node.", id="trailing dot"),
        pytest.param("a..b", id="empty label"),
        pytest.param("a.-b", id="label with a leading hyphen"),
        pytest.param("node-7\n", id="newline"),
        pytest.param(" node-7", id="blank"),
        pytest.param("node/7", id="path"),
        pytest.param("nöde", id="not ASCII"),
        pytest.param("node*", id="wildcard"),
        pytest.param("a" * 254, id="too long"),
        pytest.param(None, id="nothing"),
        pytest.param(7, id="number"),
        pytest.param(True, id="boolean"),
        pytest.param(["node-7"], id="list"),
        pytest.param({"node": "node-7"}, id="mapping"),
        pytest.param(b"node-7", id="bytes"),
    ],
)
def test_what_is_no_node_name_is_refused_in_one_line(value: object):
    with pytest.raises(Refused) as refusal:
        names.node_name(value)
    assert "not the name of a node" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@given(st.text())
def test_no_text_makes_a_queue_that_is_not_a_nodes(text: str):
    try:
        queue = names.queue_for(text)
    except Refused:
        return
    assert queue == f"node.{text}"
    assert text.isascii()
    assert not set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")


@pytest.mark.parametrize("value", ["a", "A-1", "0f8fad5b-d9cb-469f-a165-70867728950e", "x" * 64])
def test_a_sweep_id_is_letters_digits_and_hyphens(value: str):
    assert names.sweep_id(value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a:b", "a_b", "a\n", "../a", "é", None, 7, ["a"]])
def test_what_is_no_sweep_id_is_refused(value: object):
    with pytest.raises(Refused, match="not the id of a sweep"):
        names.sweep_id(value)


@pytest.mark.parametrize("value", ["false", "", 0, 1, None, []])
def test_a_flag_is_true_or_false_and_nothing_that_looks_like_it(value: object):
    with pytest.raises(Refused, match="dry_run must be true or false"):
        names.flag("dry_run", value)


def test_a_boolean_is_a_flag():
    assert names.flag("dry_run", True) is True
    assert names.flag("dry_run", False) is False


@pytest.mark.parametrize("value", ["pool=workers", " pool in (a, b) ", "!pool", "a" * 1000])
def test_a_selector_is_text_of_which_the_api_says_what_it_means(value: str):
    assert names.selector(value) == value.strip()


def test_no_selector_is_none():
    assert names.selector(None) is None


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\0b", "a" * 1001, 7, True, ["pool"], {"pool": "a"}, b"pool"])
def test_what_is_no_selector_is_refused_in_one_line(value: object):
    with pytest.raises(Refused, match="selector must be a label selector") as refusal:
        names.selector(value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [0, 0.12, 60, 3600])
def test_a_spread_is_seconds(value: float):
    assert names.spread(value) == value
    assert isinstance(names.spread(value), float)


@pytest.mark.parametrize("value", [-0.1, 3600.1, float("nan"), float("inf"), 10**400, True, "1", "", None, [1]])
def test_what_is_no_spread_is_refused(value: object):
    with pytest.raises(Refused, match="spread must be a number of seconds from 0 to 3600"):
        names.spread(value)
