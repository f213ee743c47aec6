"""The property that must never break, over whole nodes: any evidence, any two looks."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.attachment import Attachment
from cni.cleaning import _Judge, judge
from cni.evidence import ApiEvidence, Look, NamespaceDirectory, NamespaceEvidence, RuntimeEvidence
from cni.listing import Item, Listing, Network, Subject, pack_stamp
from cni.netconf import parse_network_config
from cni.pods import Pod, Sandbox
from cni.report import Policy

IDS = [letter * 64 for letter in "abc"]
IPS = ["10.88.0.2", "10.88.0.3", "fd00::2"]
NAMES = ["cni-1", "cni-2", "cni-3"]
NOW = 10**15
MINUTE = 60 * 10**9
POLICY = Policy(min_age=900.0, confirm_after=60.0, max_remove=None, dry_run=False)
DIRECTORY = "/var/lib/cni/networks/cbr0"
CONFIG = parse_network_config(
    b'{"name": "cbr0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00::/64"}]]}}'
)


def stamp(age_ns):
    return pack_stamp(1, 1, 70, NOW - age_ns, NOW - age_ns, 0o100644, 0, 0)


def reservation(ip, container_id, subject, age_ns):
    empty = subject is Subject.EMPTY
    return Item("reservation", DIRECTORY, ip, "cbr0", subject, None if empty else container_id, None, stamp(age_ns), None)


items = st.lists(
    st.builds(
        reservation,
        st.sampled_from(IPS),
        st.sampled_from(IDS),
        st.sampled_from([Subject.SANDBOX, Subject.SANDBOX, Subject.SANDBOX, Subject.EMPTY, Subject.UNFIT]),
        st.sampled_from([20 * MINUTE, 20 * MINUTE, 5 * MINUTE, -MINUTE]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda item: item.name,
)
attachments = st.lists(
    st.builds(
        Attachment,
        container_id=st.sampled_from(IDS),
        network=st.sampled_from(["cbr0", "cni-loopback"]),
        ifname=st.just("eth0"),
        namespaces=st.lists(st.sampled_from([f"/run/netns/{name}" for name in NAMES]), max_size=2).map(tuple),
        addresses=st.lists(st.sampled_from(IPS), max_size=2).map(tuple),
        by_cri=st.just(True),
        readable=st.booleans(),
    ),
    max_size=3,
)
runtimes = st.builds(
    RuntimeEvidence,
    unknown=st.sampled_from([None, None, None, "no answer"]),
    sandboxes=st.dictionaries(
        st.sampled_from(IDS),
        st.builds(Sandbox, id=st.just(""), ready=st.booleans(), pod_uid=st.sampled_from(["u1", "u2"]), pod=st.just("a/b")),
        max_size=2,
    ),
)
directories = st.builds(
    lambda names, mounted: NamespaceDirectory(names=frozenset(names), mounted=frozenset(mounted) & frozenset(names)),
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
)
namespaces = st.builds(
    NamespaceEvidence,
    unknown=st.sampled_from([None, None, None, "no answer"]),
    directories=st.fixed_dictionaries({"/run/netns": st.one_of(st.none(), directories, directories)}),
)
apis = st.builds(
    ApiEvidence,
    unknown=st.sampled_from([None, None, None, "no answer"]),
    pods=st.lists(
        st.builds(
            Pod,
            uid=st.sampled_from(["u1", "u2"]),
            name=st.just("a/b"),
            runtime_uid=st.sampled_from(["u1", "u2"]),
            running=st.booleans(),
            finished=st.booleans(),
            host_network=st.booleans(),
            addresses=st.frozensets(st.sampled_from(IPS), max_size=2),
            garbled=st.booleans(),
        ),
        max_size=2,
    ),
)


@st.composite
def looks(draw):
    """Two looks at the same files by the same witnesses; everything that they say may have changed in between."""
    listed = draw(items)
    steady = draw(st.lists(st.booleans(), min_size=len(listed), max_size=len(listed)))
    runtime_off, api_off = draw(st.sampled_from([False, False, True])), draw(st.sampled_from([False, False, True]))
    made = []
    for number in (0, 1):
        by_id: dict[str, list[Attachment]] = {}
        for attachment in draw(attachments):
            by_id.setdefault(attachment.container_id, []).append(attachment)
        listing = Listing(
            networks=[Network(name="cbr0", directory=DIRECTORY, config=CONFIG)],
            items=listed,
            attachments=by_id,
            steady=steady if number else None,
        )
        made.append(
            Look(
                listing,
                runtime=RuntimeEvidence(off=True) if runtime_off else draw(runtimes),
                namespaces=draw(namespaces),
                api=ApiEvidence(off=True) if api_off else draw(apis),
                now_ns=NOW + number * MINUTE,
                settled=draw(st.sampled_from([True, True, True, False])),
            )
        )
    return made


@settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(looks())
def test_leaked_implies_proof_at_both_looks_and_no_veto_at_either(both):
    judgement = judge(both, policy=POLICY, held=frozenset())
    for index, decision in enumerate(judgement.decisions):
        if decision.verdict == "leaked":
            hold_the_property(both, index)


def hold_the_property(both, index):
    listing = both[-1].listing
    item = listing.items[index]
    mates = (
        [other for other, one in enumerate(listing.items) if one.container_id == item.container_id]
        if item.container_id
        else [index]
    )
    for mate in mates:
        assert listing.steady[mate]
        assert listing.items[mate].subject in (Subject.SANDBOX, Subject.EMPTY)
        assert age_of(listing.items[mate]) >= 900 * 10**9
    for look in both:
        assert look.settled
        assert look.runtime.unknown is None
        assert look.namespaces.unknown is None
        assert look.api.unknown is None
        held = {ip for pod in look.api.pods for ip in pod.addresses if holds(pod, ip, look)}
        assert not any(listing.items[mate].name in held for mate in mates)
        if item.subject is Subject.EMPTY:
            assert not look.runtime.off
            assert not look.api.off
            continue
        assert item.container_id not in look.runtime.sandboxes
        mounted = look.namespaces.directories["/run/netns"]
        named = [path for one in look.listing.attachments.get(item.container_id, ()) for path in one.namespaces]
        assert not any(mounted and path.rpartition("/")[2] in mounted.mounted for path in named)
        if look.runtime.off:
            assert not look.api.off
            assert named
            assert mounted is not None
            assert not any(path.rpartition("/")[2] in mounted.names for path in named)


def age_of(item):
    return NOW - int.from_bytes(item.stamp[24:32], "little")


def holds(pod, ip, look):
    """Whether the pod's address holds the files of its name: no reservation of it carries an id that is listed for this pod."""
    if pod.host_network:
        return False
    ready = {one.pod_uid for one in look.runtime.sandboxes.values() if one.ready}
    if pod.finished and not look.runtime.off and pod.runtime_uid not in ready:
        return False
    owners = {
        look.runtime.sandboxes[item.container_id].pod_uid
        for item in look.listing.items
        if item.name == ip and item.container_id in look.runtime.sandboxes
    }
    return pod.runtime_uid not in owners


def test_the_property_is_not_empty():
    """Some node of this kind has a leak, so that the test above has something to say."""
    item = reservation("10.88.0.2", IDS[0], Subject.SANDBOX, 20 * MINUTE)
    look = Look(
        Listing(items=[item], networks=[Network(name="cbr0", directory=DIRECTORY)]),
        runtime=RuntimeEvidence(sandboxes={IDS[1]: Sandbox(IDS[1], True, "u", "a/b")}),
        namespaces=NamespaceEvidence(directories={"/run/netns": NamespaceDirectory()}),
        api=ApiEvidence(off=True),
        now_ns=NOW,
        settled=True,
    )
    assert [one.verdict for one in judge([look], policy=POLICY, held=frozenset()).decisions] == ["leaked"]


class WithoutShortCut(_Judge):
    """Judges every id by the long way."""

    def _is_stranger(self, *_):
        return False


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(
    looks(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([frozenset(), frozenset({("/x", IDS[0])}), frozenset({("/x", IDS[1])})]),
)
def test_the_short_cut_for_strangers_decides_like_the_long_way(both, trusted, provisional, held):
    arguments = {"policy": POLICY, "held": held, "trusted": trusted, "provisional": provisional}
    short, long = _Judge(both, **arguments).judgement(), WithoutShortCut(both, **arguments).judgement()
    assert short.decisions == long.decisions
    assert short.leaks == long.leaks
    assert short.findings == long.findings


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(looks())
def test_the_same_looks_are_judged_the_same_again(both):
    first, again = (judge(both, policy=POLICY, held=frozenset()) for _ in range(2))
    assert first == again
