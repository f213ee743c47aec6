"""
What the witnesses answered at one look, and what that means for one container id.

An answer is one of five, and the worse one wins: SEEN and UNKNOWN veto. SILENT is a witness that has nothing to say of this id,
OFF one that the operator turned off.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from cni.attachment import UNREADABLE_PATH, Attachment
from cni.listing import Item, Listing, Network, Subject
from cni.names import is_pod_namespace, is_podman_namespace
from cni.pods import Pod, Sandbox, SandboxStatus

NETNS_DIR = "/run/netns"


class Answer(IntEnum):
    """What a witness says of one container id; the larger one wins."""

    OFF = 0
    ABSENT = 1
    SILENT = 2
    UNKNOWN = 3
    SEEN = 4


@dataclass(frozen=True, kw_only=True)
class RuntimeEvidence:
    """The sandboxes that the runtimes of this node list, in any state."""

    #: Why it cannot be told; the whole pass is then Unknown.
    unknown: str | None = None
    off: bool = False
    sandboxes: Mapping[str, Sandbox] = field(default_factory=dict)
    #: By sandbox id; filled only where it was asked for. A sandbox that is listed and has none is not known.
    statuses: Mapping[str, SandboxStatus] = field(default_factory=dict)
    #: True where statuses can be asked for at all: not with an offline file.
    live: bool = False
    #: Whether one of them names namespaces by process, `/proc/PID/ns/net`, as cri-dockerd does. In a pod such a path is another
    #: process's, if any's: only that runtime's own list can speak for the sandbox.
    names_processes: bool = False
    #: CRI-O 1.32 and later needs the results files for its own garbage collection.
    keeps_results: bool = False

    def of(self, container_id: str) -> Answer:
        """What the runtime says of this id."""
        if container_id in self.sandboxes:
            return Answer.SEEN
        if self.unknown is not None:
            return Answer.UNKNOWN
        return Answer.OFF if self.off else Answer.ABSENT

    def ready_uids(self) -> set[str]:
        """The pods, by the runtime's uid, that have a sandbox in state READY."""
        return {sandbox.pod_uid for sandbox in self.sandboxes.values() if sandbox.ready}


@dataclass(frozen=True, kw_only=True)
class NamespaceDirectory:
    """The names in a directory of network namespaces, and those of them that are mounted (nsfs)."""

    names: frozenset[str] = frozenset()
    mounted: frozenset[str] = frozenset()
    #: False where what is mounted later on the node does not show here: a name may then be a living namespace.
    follows_mounts: bool = True


@dataclass(frozen=True, kw_only=True)
class NamespaceEvidence:
    """The directories of namespaces that results files name, and /run/netns. A missing directory is None."""

    unknown: str | None = None
    directories: Mapping[str, NamespaceDirectory | None] = field(default_factory=dict)
    #: False where a running node shows no directory of namespaces at all: an ADD under way could not be seen.
    shows_adds: bool = True


@dataclass(frozen=True, kw_only=True)
class ApiEvidence:
    """The pods of this node that the Kubernetes API shows."""

    unknown: str | None = None
    off: bool = False
    pods: Sequence[Pod] = ()


class Look:
    """One listing with everything that was asked after it: answers for any container id and address."""

    def __init__(
        self,
        listing: Listing,
        *,
        runtime: RuntimeEvidence,
        namespaces: NamespaceEvidence,
        api: ApiEvidence,
        now_ns: int,
        settled: bool,
    ) -> None:
        """`now_ns` is the wall clock before the listing; `settled` is False while no age can be believed (rule 4)."""
        self.listing = listing
        self.runtime = runtime
        self.namespaces = namespaces
        self.api = api
        self.now_ns = now_ns
        self.settled = settled
        self._alive = {path: self._living_names(path) for path in namespaces.directories}
        self.unnamed_namespaces = self._unnamed_namespaces(is_pod_namespace)
        self.unnamed_namespaces_of_others = self._unnamed_namespaces(is_podman_namespace)
        self.netns_unknown = namespaces.unknown or self._wrong_mount()
        self.api_unknown = api.unknown or self._garbled_annotation()
        self.unexplained = self._unexplained_addresses()
        self.held_addresses = frozenset(self.unexplained)

    # The network namespaces

    def netns_of(self, container_id: str, unnamed: Collection[str]) -> Answer:
        """What the namespaces say of this id; `unnamed` are namespaces that no results file names at any look."""
        attachments = self.listing.attachments.get(container_id, ())
        paths = [path for attachment in attachments for path in attachment.namespaces]
        if any(self.is_alive(path) for path in paths):
            return Answer.SEEN
        if self.netns_unknown is not None:
            return Answer.UNKNOWN
        if not paths:
            return Answer.UNKNOWN if unnamed or not self.namespaces.shows_adds else Answer.SILENT
        if self._nobody_speaks_for(paths):
            return Answer.UNKNOWN
        inside = [path for path in paths if not path.startswith("/proc/")]
        if any(self.namespaces.directories.get(_split(path)[0]) is None for path in inside):
            return Answer.UNKNOWN
        all_told = all(attachment.readable and attachment.namespaces for attachment in attachments)
        return Answer.ABSENT if all_told and len(inside) == len(paths) else Answer.SILENT

    def _nobody_speaks_for(self, paths: Iterable[str]) -> bool:
        """Whether one is a process's, and the runtime that names them so was not asked."""
        return not self.runtime.names_processes and any(map(_is_of_process, paths))

    def is_alive(self, path: str) -> bool:
        """Whether the namespace is mounted, or there by name in a directory where names are all that can be seen."""
        directory, name = _split(path)
        return name in self._alive.get(directory, ())

    def _living_names(self, path: str) -> frozenset[str]:
        """The names that count.

        Those that are only there count too where mounts cannot be relied on: in a copied tree, in a view that misses mounts, and
        where the runtime is off.
        """
        directory = self.namespaces.directories[path]
        if directory is None:
            return frozenset()
        by_name = (
            self.runtime.off or not directory.mounted or not directory.follows_mounts or self._misses_mounts(path, directory)
        )
        return directory.names if by_name else directory.mounted

    def _misses_mounts(self, path: str, directory: NamespaceDirectory) -> bool:
        """Whether a running sandbox's namespace is there and not mounted: this view was made before it, and does not follow."""
        unmounted = {f"{path}/{name}" for name in directory.names - directory.mounted}
        return bool(unmounted) and not unmounted.isdisjoint(self._paths_of_ready())

    def _named_paths(self) -> set[str]:
        attachments = (one for many in self.listing.attachments.values() for one in many)
        return {path for attachment in attachments for path in attachment.namespaces}

    def _paths_of_ready(self) -> set[str]:
        ready = (sandbox.id for sandbox in self.runtime.sandboxes.values() if sandbox.ready)
        attachments = (one for id_ in ready for one in self.listing.attachments.get(id_, ()))
        return {path for attachment in attachments for path in attachment.namespaces}

    def _unnamed_namespaces(self, is_ours: Callable[[str], bool]) -> frozenset[str]:
        named = self._named_paths()
        living = (f"{path}/{name}" for path, names in self._alive.items() for name in names if is_ours(name))
        return frozenset(path for path in living if path not in named)

    def _wrong_mount(self) -> str | None:
        """A directory in which not one of the living sandboxes' namespaces exists is not the node's own."""
        named = self._named_paths() if self.runtime.off else self._paths_of_ready()
        expected = {path for path in named if not path.startswith("/proc/")}
        if not expected or any(self._exists(path) for path in expected):
            return None
        where = ", ".join(sorted({_split(path)[0] for path in expected}))
        return f"not one namespace of the running pods exists in {where}: is it the node's own, mounted?"

    def _exists(self, path: str) -> bool:
        directory, name = _split(path)
        found = self.namespaces.directories.get(directory)
        return found is not None and name in found.names

    # The API

    def api_of(self, addresses: Iterable[str]) -> Answer:
        """What the API says of these addresses."""
        if any(address in self.held_addresses for address in addresses):
            return Answer.SEEN
        if self.api_unknown is not None:
            return Answer.UNKNOWN
        return Answer.OFF if self.api.off else Answer.ABSENT

    def _garbled_annotation(self) -> str | None:
        garbled = [pod.name for pod in self.api.pods if pod.garbled]
        if garbled and self.runtime.off:
            return f"the network-status annotation of {garbled[0]} cannot be read"
        return None

    def _unexplained_addresses(self) -> dict[str, list[Pod]]:
        """Addresses that pods show and no reservation of a sandbox of theirs accounts for, with those pods."""
        ready = self.runtime.ready_uids()
        pods = [
            pod
            for pod in self.api.pods
            if not pod.host_network and (not pod.finished or self.runtime.off or pod.runtime_uid in ready)
        ]
        wanted = {address for pod in pods for address in pod.addresses}
        owners = self._owners(wanted)
        found: dict[str, list[Pod]] = {}
        for pod in pods:
            for address in pod.addresses:
                if pod.runtime_uid not in owners.get(address, ()):
                    found.setdefault(address, []).append(pod)
        return found

    def _owners(self, addresses: Collection[str]) -> dict[str, set[str]]:
        """For each address the pods (by the runtime's uid) that a reservation of it belongs to."""
        owners: dict[str, set[str]] = {}
        for item in self.listing.items:
            if item.name in addresses and item.kind == "reservation" and item.container_id is not None:
                sandbox = self.runtime.sandboxes.get(item.container_id)
                if sandbox is not None:
                    owners.setdefault(item.name, set()).add(sandbox.pod_uid)
        return owners

    # Empty files (rule 10)

    def runtime_of_address(self, address: str) -> Answer:
        """What the runtime says of an address without an id: by PodSandboxStatus, where it can be asked."""
        if self.runtime.off or self.runtime.unknown is not None:
            return Answer.OFF if self.runtime.off else Answer.UNKNOWN
        if any(address in status.addresses for status in self.runtime.statuses.values()):
            return Answer.SEEN
        if self.runtime.live and any(id_ not in self.runtime.statuses for id_ in self.runtime.sandboxes):
            return Answer.UNKNOWN
        return Answer.ABSENT

    def netns_of_address(self, address: str) -> Answer:
        """What the results files of sandboxes that are listed, or still mounted, say of an address without an id.

        One that is neither, and of which nobody can tell whether it lives, makes its own addresses Unknown.
        """
        if self.netns_unknown is not None:
            return Answer.UNKNOWN
        answer = Answer.ABSENT
        for container_id, attachments in self.listing.attachments.items():
            paths = [path for attachment in attachments for path in attachment.namespaces]
            has_it = any(address in attachment.addresses for attachment in attachments)
            if container_id not in self.runtime.sandboxes and not any(map(self.is_alive, paths)):
                if has_it and self._nobody_speaks_for(paths):
                    answer = Answer.UNKNOWN
                continue
            if has_it:
                return Answer.SEEN
            if not all(attachment.readable for attachment in attachments):
                answer = Answer.UNKNOWN
        return answer

    # The whole pass

    def canary(self, *, pod_uid: str | None, in_cluster: bool) -> str | None:
        """Why the witnesses are not to be believed at all (rule 9); None where they are."""
        if pod_uid is not None:
            return self._own_pod_missing(pod_uid)
        if in_cluster:
            return "POD_UID is not set although this runs in a cluster: give it from the downward API (metadata.uid)"
        if self._nothing_to_lose() or self._some_reservation_is_seen() or self._no_pod_network_sandbox():
            return None
        unread = [network.directory for network in self.listing.networks if network.problem == "unreadable"]
        if unread:
            return (
                "not one reservation that can be read belongs to a sandbox that is listed, and"
                f" {unread[0]} cannot be read: run as root"
            )
        hint = "; the API could tell which sandboxes have no address at all (--api external --node NAME)" if self.api.off else ""
        return (
            "not one reservation belongs to a sandbox that is listed: is this the runtime, the API and the directory of one node?"
            + hint
        )

    def _nothing_to_lose(self) -> bool:
        """Whether there is no file at all that could be judged."""
        return not any(item.container_id or item.subject is Subject.EMPTY for item in self.listing.items)

    def _own_pod_missing(self, pod_uid: str) -> str | None:
        if not self.runtime.off and not any(one.pod_uid == pod_uid for one in self.runtime.sandboxes.values()):
            return "the runtime does not list this program's own pod: is it this node's runtime?"
        if not self.api.off and not any(pod.uid == pod_uid for pod in self.api.pods):
            return "the API does not show this program's own pod on this node: is the node's name right?"
        return None

    def _some_reservation_is_seen(self) -> bool:
        reservations = [item for item in self.listing.items if item.kind == "reservation" and item.container_id]
        if not self.runtime.off:
            return any(item.container_id in self.runtime.sandboxes for item in reservations)
        return any(
            self.netns_of(item.container_id or "", ()) is Answer.SEEN or item.name in self.held_addresses for item in reservations
        )

    def _no_pod_network_sandbox(self) -> bool:
        if self.runtime.off:
            return False
        host_network = {pod.runtime_uid for pod in self.api.pods if pod.host_network}
        return not any(
            sandbox.ready
            and sandbox.pod_uid not in host_network
            and not (sandbox.id in self.runtime.statuses and self.runtime.statuses[sandbox.id].host_network)
            for sandbox in self.runtime.sandboxes.values()
        )

    def refuses(self, network: Network, members: Iterable[Item]) -> str | None:
        """Why this network is not to be judged: a running pod has an address of it, and nothing here is known to anybody."""
        if network.config is None:
            return None
        strangers = [
            f"{pods[0].name} ({address})"
            for address, pods in self.unexplained.items()
            if ipaddress.ip_address(address) in network.config and any(pod.running for pod in pods)
        ]
        if not strangers or any(self._is_seen(item) for item in members):
            return None
        return f"pod {strangers[0]} runs with an address of {network.name}, and not one of its reservations is known"

    def _is_seen(self, item: Item) -> bool:
        if item.subject is not Subject.SANDBOX or item.container_id is None:
            return item.name in self.held_addresses
        return Answer.SEEN in (
            self.runtime.of(item.container_id),
            self.netns_of(item.container_id, ()),
            self.api_of([item.name]),
        )

    def remarks(self) -> list[str]:
        """What an operator should know of the witnesses, though they answered."""
        said = [
            f"the network-status annotation of {pod.name} cannot be read: its secondary addresses hold nothing"
            for pod in self.api.pods
            if pod.garbled
        ]
        said += [
            f"{path} does not show what the node mounts later, so names count as living namespaces:"
            " in a pod, mount it with HostToContainer propagation"
            for path, directory in self.namespaces.directories.items()
            if directory is not None and directory.mounted and not directory.follows_mounts
        ]
        if not self.namespaces.shows_adds:
            said.append(
                f"there is no {NETNS_DIR} here: an ADD under way could not be seen, so files without results are undecided;"
                " in a pod, mount it with HostToContainer propagation"
            )
        if self._nobody_speaks_for(self._named_paths()):
            said.append(
                "results files name namespaces by process, as cri-dockerd does, and no such runtime was asked: their sandboxes"
                " are undecided; in a pod, mount the directory of its socket"
            )
        seen = {item.container_id for item in self.listing.items if item.kind == "reservation"} & self.runtime.sandboxes.keys()
        if seen and self.listing.attachments.keys().isdisjoint(seen):
            said.append("not one sandbox with a reservation has a results file: the namespaces cannot speak for anybody here")
        return said

    def witnesses(self) -> dict[str, str]:
        """For the report: `ok`, `off` or `unknown: why`, by witness."""
        return {
            "runtime": _status(self.runtime.unknown, off=self.runtime.off),
            "netns": _status(self.netns_unknown, off=False),
            "api": _status(self.api_unknown, off=self.api.off),
        }

    def pod_of(self, container_id: str) -> str | None:
        """The pod, `namespace/name`, of this id: from the runtime, else from what its results file remembers."""
        sandbox = self.runtime.sandboxes.get(container_id)
        if sandbox is not None:
            return sandbox.pod
        attachments: Sequence[Attachment] = self.listing.attachments.get(container_id, ())
        return next((attachment.pod for attachment in attachments if attachment.pod), None)


def _is_of_process(path: str) -> bool:
    return path.startswith("/proc/") and path != UNREADABLE_PATH


def _split(path: str) -> tuple[str, str]:
    directory, _, name = path.rpartition("/")
    return directory, name


def _status(unknown: str | None, *, off: bool) -> str:
    if unknown is not None:
        return f"unknown: {unknown}"
    return "off" if off else "ok"
