"""Witnesses from files: evidence about another moment, allowed for scan, dry runs and copied trees only (rule 12)."""

import json
import os
import stat
from typing import Any

from cni.errors import UsageError
from cni.evidence import ApiEvidence, RuntimeEvidence
from cni.pods import MalformedList, parse_pods, parse_sandboxes

_LIMIT = 256 << 20


def runtime_from_file(path: str) -> RuntimeEvidence:
    """What `crictl pods -o json` printed; no sandbox at all is Unknown.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        sandboxes = parse_sandboxes(_json(path))
    except MalformedList as error:
        raise UsageError(f"{path}: {error}") from error
    return RuntimeEvidence(unknown=None if sandboxes else f"{path} lists no sandbox at all", sandboxes=sandboxes)


def api_from_file(path: str, node: str | None) -> ApiEvidence:
    """What `kubectl get pods -A -o json` printed, of this node; none at all is Unknown.

    Raises:
        UsageError: the file cannot be read, holds something else, or has pods of several nodes and none was named.
    """
    try:
        listed = parse_pods(_json(path))
    except MalformedList as error:
        raise UsageError(f"{path}: {error}") from error
    nodes = {where for where, _ in listed if where}
    if node is None and len(nodes) > 1:
        raise UsageError(f"{path} has pods of several nodes: say which one with --node")
    mine = node if node is not None else next(iter(nodes), None)
    pods = [pod for where, pod in listed if where == mine]
    return ApiEvidence(unknown=None if pods else f"{path} shows no pod at all on node {mine}", pods=pods)


def _json(path: str) -> Any:
    try:
        # Not to wait for ever where somebody names a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
                raise UsageError(f"{path} is no regular file, or too large")
            return json.loads(file.read())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
