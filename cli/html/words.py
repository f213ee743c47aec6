"""What the words of reports and accounts mean, for somebody who has read no documentation."""

from tasks.account import NodeState

STATES: dict[NodeState, str] = {
    "failed": "What to do about each reason stands in docs/operating.md. The next sweep asks them again.",
    "missed": "Is the worker's pod running there? Its job waits in its queue for six days; a late answer still counts.",
    "discarded": "The worker came back after the job had expired. Nothing to do: the next sweep asks it.",
    "waiting": "They have not answered yet.",
}
"""What to do about the nodes that are not cleaned, the most urgent first."""

REASONS = {
    "sandbox": "The container runtime lists the pod",
    "netns": "The pod's network namespace is still there",
    "pod-ip": "A pod in the Kubernetes API shows the address",
    "held": "Put back by restore, and not released since",
    "foreign": "Not a pod's reservation by host-local: never touched",
    "young": "Too young: its pod may still be in the making",
    "unknown": "A witness could not answer, and who cannot answer vetoes",
    "unconfirmed": "Not the same at both looks: judged again by the next pass",
    "unparsable": "Its content or its kind is not what host-local writes",
    "absent": "Nobody knows its pod any more",
    "empty": "Empty, left by a crash, and no pod has its address",
}
"""Why a file was judged as it was."""

OUTCOMES = {
    "removed": "removed",
    "gone": "gone already: the plugin itself freed it",
    "changed": "changed meanwhile, and left",
    "dry-run": "would be removed; this was a dry run",
    "over-limit": "left: more than the node's --max-remove",
    "failed": "could not be removed",
}
"""What became of a leaked file."""
