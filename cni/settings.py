"""What an operator can set on a node. A message can never change it (rule 14)."""

from dataclasses import dataclass
from typing import Literal

from cni.report import Policy


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The node's own configuration; times in seconds."""

    #: The CNI directory, one network, or a directory of networks. `/var/lib/cni`: where host-local keeps it.
    cnifiles: str = "/var/lib/cni"
    #: Prefixes every path of the node. Another one than `/` is a copied or mounted tree: the clock rules do not apply to it.
    root: str = "/"
    #: The name of the Node object; it may differ from the host name, so it comes from the downward API.
    node: str | None = None
    #: Ours: lock, journal, report. Never below the reservations, which host-local's DEL walks recursively.
    state_dir: str = "/var/lib/cni-cleanup"
    #: How the Kubernetes API is asked.
    api: Literal["internal", "external", "none"] = "internal"
    #: `auto`, `none` or `unix:///path`.
    runtime_endpoint: str = "auto"
    #: Where network configurations are, for capacities: the usual place and k3s' own.
    conf_dirs: tuple[str, ...] = ("/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d")
    #: A sandbox in the making is in nobody's list; a kubelet gives it 4 minutes, a CRI-O 5 and the request's own.
    min_age: float = 900.0
    #: Between the two looks of a pass.
    confirm_after: float = 60.0
    #: Narrows a pass to these networks.
    networks: frozenset[str] | None = None
    #: Percent of a network's capacity at which a worker makes a pass of its own accord; 0 is never.
    early_at: int = 80
    #: The most reservations that one pass removes.
    max_remove: int | None = None
    #: Decide and report, remove nothing.
    dry_run: bool = False
    #: `kubectl get pods -A -o json` instead of the API (rule 12).
    pods_file: str | None = None
    #: `crictl pods -o json` instead of the runtime (rule 12).
    sandboxes_file: str | None = None
    #: Redis, as broker, result backend, ledger and schedule.
    broker: str = "redis://127.0.0.1:6379/0"
    #: Holds the password of that Redis, where the URL has none. Read by who uses the broker, and nobody else: a pass by hand
    #: needs neither.
    broker_password_file: str | None = None
    #: The sweep's nodes outside Kubernetes.
    static_nodes: tuple[str, ...] = ()
    #: When the weekly sweep starts, in cron form: Monday 08:00, as the CronJob of the old tool did.
    schedule: str = "0 8 * * 1"
    #: The time zone of the schedule.
    timezone: str = "UTC"
    #: Where the sidecar serves, `HOST:PORT`. 9010 is the port of the tool before this one.
    listen: str = ":9010"
    #: Holds the bearer token for what the sidecar does not show or do for everybody; None turns that off.
    token_file: str | None = None
    #: How `job` asks where its flags do not say it: all nodes through the broker, or these sidecars by HTTP.
    autodiscover: bool = False
    urlserver: tuple[str, ...] = ()
    #: How the long-running processes log: `auto` is text on a terminal, and one JSON object a line elsewhere.
    log_format: Literal["auto", "json", "text"] = "auto"
    #: Where traces go, OTLP over HTTP; the variables of OpenTelemetry may say so too.
    jaegerurl: str | None = None
    #: Tell more on stderr.
    debug: bool = False
    #: The uid of the pod this runs in: the canary of a cluster.
    pod_uid: str | None = None
    #: Whether KUBERNETES_SERVICE_HOST is set.
    in_cluster: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether a witness is a file."""
        return self.pods_file is not None or self.sandboxes_file is not None

    @property
    def asks_live_witness(self) -> bool:
        """Whether a runtime or the API itself is asked."""
        runtime = self.sandboxes_file is None and self.runtime_endpoint != "none"
        return runtime or (self.pods_file is None and self.api != "none")

    def policy(self, *, dry_run: bool = False) -> Policy:
        """What a pass may do; `dry_run` asks for less than the setting, never for more."""
        return Policy(
            min_age=self.min_age,
            confirm_after=self.confirm_after,
            max_remove=self.max_remove,
            dry_run=self.dry_run or dry_run,
        )
