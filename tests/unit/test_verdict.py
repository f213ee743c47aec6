"""The decision: its table, and the one property that must never break."""

import itertools
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.evidence import Answer
from cni.listing import Subject
from cni.verdict import Facts, Reason, decide

A, S, U, SEEN, OFF = Answer.ABSENT, Answer.SILENT, Answer.UNKNOWN, Answer.SEEN, Answer.OFF

EVERYTHING = [
    Facts(*one)
    for one in itertools.product(
        Subject, [A, U, SEEN, OFF], [A, S, U, SEEN], [A, U, SEEN, OFF], [False, True], [False, True], [False, True]
    )
]
LEAKED = [one for one in EVERYTHING if decide(one).verdict == "leaked"]


def facts(subject=Subject.SANDBOX, runtime=A, netns=A, api=A, *, held=False, old=True, confirmed=True):
    return Facts(subject, runtime, netns, api, held, old, confirmed)


@pytest.mark.parametrize("given_facts", LEAKED, ids=str)
def test_leaked_means_proven_vetoed_by_nobody_old_and_confirmed(given_facts):
    """Over every combination there is."""
    witnesses = (given_facts.runtime, given_facts.netns, given_facts.api)
    assert SEEN not in witnesses
    assert U not in witnesses
    assert given_facts.old
    assert given_facts.confirmed
    assert not given_facts.held
    if given_facts.subject is Subject.EMPTY:
        assert witnesses == (A, A, A)
        return
    assert given_facts.subject is Subject.SANDBOX
    assert given_facts.runtime is A or (given_facts.runtime is OFF and given_facts.netns is A and given_facts.api is A)


@given(st.sampled_from(EVERYTHING), st.sampled_from(["runtime", "netns", "api"]), st.sampled_from([SEEN, U]))
def test_whoever_has_seen_it_or_cannot_tell_vetoes(given_facts, witness, worse):
    assert decide(given_facts._replace(**{witness: worse})).verdict != "leaked"


@pytest.mark.parametrize(
    ("given_facts", "expected"),
    [
        pytest.param(facts(), ("leaked", "absent"), id="everybody says absent"),
        pytest.param(facts(netns=S), ("leaked", "absent"), id="silent namespaces beside the runtime's own absent"),
        pytest.param(facts(api=OFF), ("leaked", "absent"), id="the api may be off"),
        pytest.param(facts(netns=S, api=OFF), ("leaked", "absent"), id="the runtime's absent alone"),
        pytest.param(facts(runtime=OFF), ("leaked", "absent"), id="runtime off, both others absent"),
        pytest.param(facts(runtime=OFF, netns=S), ("undecided", "unknown"), id="runtime off, namespaces silent"),
        pytest.param(facts(runtime=OFF, api=OFF), ("undecided", "unknown"), id="namespaces alone never condemn"),
        pytest.param(facts(runtime=OFF, netns=S, api=OFF), ("undecided", "unknown"), id="with everything off nothing is leaked"),
        pytest.param(facts(runtime=U), ("undecided", "unknown"), id="the runtime cannot tell"),
        pytest.param(facts(netns=U), ("undecided", "unknown"), id="the namespaces cannot tell"),
        pytest.param(facts(api=U), ("undecided", "unknown"), id="the api cannot tell"),
        pytest.param(facts(runtime=SEEN), ("keep", "sandbox"), id="a sandbox in any state"),
        pytest.param(facts(netns=SEEN), ("keep", "netns"), id="a mounted namespace"),
        pytest.param(facts(api=SEEN), ("keep", "pod-ip"), id="a pod shows the address"),
        pytest.param(facts(runtime=U, api=SEEN), ("keep", "pod-ip"), id="seen by one while another cannot tell"),
        pytest.param(facts(held=True), ("keep", "held"), id="restored and not released"),
        pytest.param(facts(old=False), ("undecided", "young"), id="young"),
        pytest.param(facts(old=False, runtime=U), ("undecided", "young"), id="young comes before unknown"),
        pytest.param(facts(confirmed=False), ("undecided", "unconfirmed"), id="not the same at both looks"),
        pytest.param(facts(Subject.FOREIGN), ("keep", "foreign"), id="another engine's"),
        pytest.param(facts(Subject.FOREIGN, runtime=SEEN), ("keep", "foreign"), id="foreign comes first"),
        pytest.param(facts(Subject.UNFIT), ("undecided", "unparsable"), id="unfit"),
        pytest.param(facts(Subject.UNFIT, runtime=U), ("undecided", "unknown"), id="unknown comes before unparsable"),
        pytest.param(facts(Subject.UNFIT, confirmed=False), ("undecided", "unconfirmed"), id="and so does unconfirmed"),
        pytest.param(facts(Subject.UNFIT, api=SEEN), ("keep", "pod-ip"), id="unfit, and a pod shows the address"),
        pytest.param(facts(Subject.EMPTY), ("leaked", "empty"), id="empty, everybody was asked"),
        pytest.param(facts(Subject.EMPTY, api=OFF), ("undecided", "unknown"), id="empty needs the api"),
        pytest.param(facts(Subject.EMPTY, runtime=OFF), ("undecided", "unknown"), id="empty needs the runtime"),
        pytest.param(facts(Subject.EMPTY, netns=S), ("undecided", "unknown"), id="empty needs the results files"),
    ],
)
def test_every_branch_has_its_reason(given_facts, expected):
    assert decide(given_facts) == expected


def test_every_reason_of_the_contract_can_be_reached():
    assert {decide(one).reason for one in EVERYTHING} == set(typing.get_args(Reason))
