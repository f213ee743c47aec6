"""
The names that travel in messages: tasks, nodes, queues and sweeps.

A message comes from outside, so each function takes any object and raises `Refused` for what it does not know.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cni.names import is_node_name
from tasks.errors import Refused

SWEEP = "tasks.sweep"
CLEAN_NODE = "tasks.clean_node"
SCAN_NODE = "tasks.scan_node"
REPORT = "tasks.report"

CONTROL_QUEUE = "control"

_SWEEP_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def node_name(value: object) -> str:
    """`value`, if it can be the name of a node.

    Raises:
        Refused: it cannot.
    """
    if isinstance(value, str) and is_node_name(value):
        return value
    raise Refused(f"not the name of a node: {_shown(value)} (lower-case letters, digits, '-' and '.')")


def sweep_id(value: object) -> str:
    """`value`, if it can be the id of a sweep.

    Raises:
        Refused: it cannot.
    """
    if isinstance(value, str) and _SWEEP_ID.fullmatch(value):
        return value
    raise Refused(f"not the id of a sweep: {_shown(value)} (1 to 64 letters, digits and '-')")


def flag(name: str, value: object) -> bool:
    """`value`, if it is true or false: a string that says "false" would count as true.

    Raises:
        Refused: it is neither.
    """
    if isinstance(value, bool):
        return value
    raise Refused(f"{name} must be true or false, not {_shown(value)}")


def selector(value: object) -> str | None:
    """`value`, if it can be a label selector or is None; what the API takes, it says itself.

    Raises:
        Refused: it is no text, or an empty one.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= 1000:
        return value.strip()
    raise Refused(f"selector must be a label selector such as pool=workers, not {_shown(value)}")


def spread(value: object) -> float:
    """`value` as seconds between two nodes of a sweep.

    Raises:
        Refused: it is no number, or not one from 0 to 3600.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (value == 0 or 0.0001 <= value <= 3600):
        return float(value)
    raise Refused(f"spread must be a number of seconds from 0 to 3600, not {_shown(value)}")


def queue_for(node: str) -> str:
    """The queue that the worker of `node`, and no other, consumes.

    Raises:
        Refused: no node can have this name.
    """
    return f"node.{node_name(node)}"


def node_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The node that the arguments of a node task name: the first one, or `node`.

    Raises:
        Refused: they name none, one that cannot be, or name it twice.
    """
    if args and "node" in kwargs:
        raise Refused("the node is named twice: as the first argument and as 'node'")
    if args:
        return node_name(args[0])
    if "node" in kwargs:
        return node_name(kwargs["node"])
    raise Refused("""no node is named: give one, as in --args '["node-7"]'""")


def _shown(value: object) -> str:
    """`value` for a message of one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
