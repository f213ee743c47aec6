"""The manifests of `deploy/kubernetes` as kustomize renders them, and what a kubelet would make of them."""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.program import REPOSITORY
from tests.support.skips import require_program

KUBERNETES = REPOSITORY / "deploy/kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

TIMEOUT = 60.0
"""Seconds for one rendering; a tenth of one is usual."""

Document = dict[str, Any]

_LOCAL = "cni-cleanup-local"
"""The ConfigMap that is the operator's own."""


def render(directory: Path) -> list[Document]:
    """The documents that kustomize makes of a directory; skip where it is not there.

    Raises:
        subprocess.CalledProcessError: it refuses.
    """
    alone = shutil.which("kustomize")
    command = [alone, "build"] if alone else [require_program("kubectl", "kubectl, 1.29 or later"), "kustomize"]
    done = subprocess.run([*command, directory], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def overlay(name: str) -> tuple[Document, ...]:
    """The documents of an overlay."""
    return tuple(render(KUBERNETES / "overlays" / name))


@dataclass(frozen=True)
class Container:
    """A container of a workload, with its pod."""

    workload: Document
    spec: Document

    @property
    def name(self) -> str:
        """The workload's name and its own."""
        return f"{self.workload['metadata']['name']}/{self.spec['name']}"

    @property
    def pod(self) -> Document:
        """The spec of its pod."""
        spec: Document = self.workload["spec"]["template"]["spec"]
        return spec

    @property
    def is_on_every_node(self) -> bool:
        """Whether it is the DaemonSet's."""
        return bool(self.workload["kind"] == "DaemonSet")

    def security(self, setting: str) -> Any:
        """What holds of a setting that a pod can have as well: the container's own wins."""
        own = self.spec.get("securityContext", {})
        return own[setting] if setting in own else self.pod.get("securityContext", {}).get(setting)

    def volumes(self) -> list[tuple[Document, Document]]:
        """Each of its mounts, with the volume."""
        by_name = {volume["name"]: volume for volume in self.pod.get("volumes", ())}
        claims = self.workload["spec"].get("volumeClaimTemplates", ())
        by_name |= {claim["metadata"]["name"]: {"persistentVolumeClaim": claim["spec"]} for claim in claims}
        return [(mount, by_name[mount["name"]]) for mount in self.spec.get("volumeMounts", ())]


def workloads(documents: tuple[Document, ...]) -> list[Document]:
    """What makes pods."""
    found = [document for document in documents if "template" in document.get("spec", {})]
    assert {document["kind"] for document in found} <= {"DaemonSet", "Deployment", "StatefulSet"}
    return found


def containers(documents: tuple[Document, ...]) -> list[Container]:
    """All containers, those of an initialisation too."""
    return [
        Container(workload, spec)
        for workload in workloads(documents)
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for spec in workload["spec"]["template"]["spec"].get(kind, ())
    ]


def container(documents: tuple[Document, ...], name: str) -> Container:
    """The one of this name, as `cni-cleanup/worker`."""
    (found,) = (one for one in containers(documents) if one.name == name)
    return found


def named(documents: tuple[Document, ...], kind: str, name: str) -> Document:
    """The one object of this kind and name."""
    (found,) = (one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def environment(
    documents: tuple[Document, ...], of: Container, fields: Mapping[str, str], *, local: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables that a kubelet gives a container.

    `fields` are those of the pod by their paths; `local` is the data of the operator's ConfigMap, where there is one.
    """
    found: dict[str, str] = {}
    for source in of.spec.get("envFrom", ()):
        reference = source["configMapRef"]
        if reference["name"] == _LOCAL:
            assert reference["optional"], "the operator's ConfigMap may be missing"
            found |= local or {}
        else:
            found |= named(documents, "ConfigMap", reference["name"])["data"]
    for variable in of.spec.get("env", ()):
        value = variable["value"] if "value" in variable else fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        found[variable["name"]] = value
    return found


def arguments(of: Container, variables: Mapping[str, str]) -> list[str]:
    """Its `args` as a kubelet expands them: `$(NAME)`, where there is such a variable, and `$$`."""

    def expanded(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return [re.sub(r"\$\$|\$\(([^)]*)\)", expanded, argument) for argument in of.spec.get("args", ())]


def takes(pod: Document, labels: Mapping[str, str]) -> bool:
    """Whether a pod's selector and its required affinity let it run on a node with these labels."""
    if any(labels.get(label) != value for label, value in pod.get("nodeSelector", {}).items()):
        return False
    required = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_fits(term, labels) for term in required["nodeSelectorTerms"])


def _fits(term: Document, labels: Mapping[str, str]) -> bool:
    assert term.keys() == {"matchExpressions"}
    return all(_holds(expression, labels) for expression in term["matchExpressions"])


def _holds(expression: Document, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    # NotIn takes what lacks the label too.
    return {
        "In": value in expression.get("values", ()),
        "NotIn": value not in expression.get("values", ()),
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector of labels takes these."""
    return all(labels.get(label) == value for label, value in selector.get("matchLabels", {}).items()) and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def pod_labels(documents: tuple[Document, ...]) -> Iterator[Mapping[str, str]]:
    """The labels of each workload's pods."""
    return (workload["spec"]["template"]["metadata"]["labels"] for workload in workloads(documents))
