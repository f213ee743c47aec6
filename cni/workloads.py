"""Which workload made a pod, as far as the pod's name tells."""

import re

_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]"
"""What Kubernetes makes the random ends of names of. Source: k8s.io/apimachinery pkg/util/rand/rand.go, `alphanums`."""

_END = re.compile(
    # A ReplicaSet's hash and a pod's five letters; the minute of a CronJob and the same; the five letters alone; an ordinal.
    rf"(?:-{_RANDOM}{{6,10}}-{_RANDOM}{{5}}|-[0-9]{{8}}-{_RANDOM}{{5}}|-{_RANDOM}{{5}}|-[0-9]+)$"
)


def workload_of(pod: str) -> str:
    """The `namespace/name` of what made a pod, given the pod's own: a guess by its name, since the pod itself is gone.

    The random or counted end is left out, as Deployments, DaemonSets, Jobs, CronJobs and StatefulSets append it. The name
    of a pod that somebody chose stays whole, unless it ends in such a way.
    """
    return _END.sub("", pod)
