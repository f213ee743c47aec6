"""
The Container Runtime Interface as the tests speak it: the messages of `runtime.v1` and a client.

The messages are built from descriptors at run time, and on purpose not with the product's own tables: a wrong field number in one
of the two then shows as a failing contract test. Field numbers are those of the published `api.proto`.
"""

from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "runtime.v1"
SERVICE = f"{PACKAGE}.RuntimeService"

UNLIMITED = -1
"""The value of gRPC's size options that lifts the limit."""

_ENUMS = {
    "PodSandboxState": ("SANDBOX_READY", "SANDBOX_NOTREADY"),
    "NamespaceMode": ("POD", "CONTAINER", "NODE", "TARGET"),
}
READY, NOT_READY = 0, 1
NETWORK_OF_POD, NETWORK_OF_NODE = 0, 2

_MESSAGES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "VersionRequest": ((1, "version", "string"),),
    "VersionResponse": (
        (1, "version", "string"),
        (2, "runtime_name", "string"),
        (3, "runtime_version", "string"),
        (4, "runtime_api_version", "string"),
    ),
    "PodSandboxMetadata": (
        (1, "name", "string"),
        (2, "uid", "string"),
        (3, "namespace", "string"),
        (4, "attempt", "uint32"),
    ),
    "PodSandboxStateValue": ((1, "state", "PodSandboxState"),),
    "PodSandboxFilter": (
        (1, "id", "string"),
        (2, "state", "PodSandboxStateValue"),
        (3, "label_selector", "map"),
    ),
    "ListPodSandboxRequest": ((1, "filter", "PodSandboxFilter"),),
    "PodSandbox": (
        (1, "id", "string"),
        (2, "metadata", "PodSandboxMetadata"),
        (3, "state", "PodSandboxState"),
        (4, "created_at", "int64"),
        (5, "labels", "map"),
        (6, "annotations", "map"),
        (7, "runtime_handler", "string"),
    ),
    "ListPodSandboxResponse": ((1, "items", "PodSandbox*"),),
    "PodSandboxStatusRequest": ((1, "pod_sandbox_id", "string"), (2, "verbose", "bool")),
    "PodIP": ((1, "ip", "string"),),
    "PodSandboxNetworkStatus": ((1, "ip", "string"), (2, "additional_ips", "PodIP*")),
    "NamespaceOption": (
        (1, "network", "NamespaceMode"),
        (2, "pid", "NamespaceMode"),
        (3, "ipc", "NamespaceMode"),
        (4, "target_id", "string"),
    ),
    "Namespace": ((2, "options", "NamespaceOption"),),
    "LinuxPodSandboxStatus": ((1, "namespaces", "Namespace"),),
    "PodSandboxStatus": (
        (1, "id", "string"),
        (2, "metadata", "PodSandboxMetadata"),
        (3, "state", "PodSandboxState"),
        (4, "created_at", "int64"),
        (5, "network", "PodSandboxNetworkStatus"),
        (6, "linux", "LinuxPodSandboxStatus"),
        (7, "labels", "map"),
        (8, "annotations", "map"),
        (9, "runtime_handler", "string"),
    ),
    "PodSandboxStatusResponse": ((1, "status", "PodSandboxStatus"), (2, "info", "map")),
    "LinuxSandboxSecurityContext": ((1, "namespace_options", "NamespaceOption"),),
    "LinuxPodSandboxConfig": (
        (1, "cgroup_parent", "string"),
        (2, "security_context", "LinuxSandboxSecurityContext"),
    ),
    "PodSandboxConfig": (
        (1, "metadata", "PodSandboxMetadata"),
        (2, "hostname", "string"),
        (3, "log_directory", "string"),
        (6, "labels", "map"),
        (7, "annotations", "map"),
        (8, "linux", "LinuxPodSandboxConfig"),
    ),
    "RunPodSandboxRequest": ((1, "config", "PodSandboxConfig"), (2, "runtime_handler", "string")),
    "RunPodSandboxResponse": ((1, "pod_sandbox_id", "string"),),
}
"""Per message: field number, name, type. "map" is map<string, string>, a trailing "*" is repeated."""

METHODS = {
    "Version": ("VersionRequest", "VersionResponse"),
    "ListPodSandbox": ("ListPodSandboxRequest", "ListPodSandboxResponse"),
    "PodSandboxStatus": ("PodSandboxStatusRequest", "PodSandboxStatusResponse"),
    "RunPodSandbox": ("RunPodSandboxRequest", "RunPodSandboxResponse"),
}
"""The calls that the client knows: name -> (request message, response message)."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
}


def _add_map(message: descriptor_pb2.DescriptorProto, field: _Field) -> None:
    """Give `field` the type map<string, string>, which on the wire is a repeated nested entry message."""
    name = "".join(part.capitalize() for part in field.name.split("_")) + "Entry"
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    for number, part in ((1, "key"), (2, "value")):
        entry.field.add(name=part, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    field.type = _Field.TYPE_MESSAGE
    field.label = _Field.LABEL_REPEATED
    field.type_name = f".{PACKAGE}.{message.name}.{name}"


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    repeated = kind.endswith("*")
    kind = kind.removesuffix("*")
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if kind == "map":
        _add_map(message, field)
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind in _ENUMS else _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


def _build() -> dict[str, Any]:
    """Return the message classes by name, in a descriptor pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="tests/cri.proto", package=PACKAGE, syntax="proto3")
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            _add_field(message, number, field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


MESSAGES = _build()
"""Message classes by their name in `api.proto`."""


class CriClient:
    """A client of a runtime's socket; a context manager that closes its channel.

    Every call raises grpc.RpcError when the runtime answers with an error, or not within `timeout` seconds.
    """

    def __init__(self, socket: Path, *, timeout: float = 10.0, max_bytes: int = UNLIMITED) -> None:
        self._timeout = timeout
        # Else gRPC shares connections within the process: this client would get the failure of an earlier one, and its back-off.
        options = [("grpc.max_receive_message_length", max_bytes), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, **fields: Any) -> Any:
        """Call one of `METHODS` with a request of these fields; return the response message."""
        request, response = METHODS[method]
        stub = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=MESSAGES[request].SerializeToString,
            response_deserializer=MESSAGES[response].FromString,
        )
        return stub(MESSAGES[request](**fields), timeout=self._timeout)

    def version(self) -> Any:
        """Return the VersionResponse."""
        return self.call("Version")

    def sandboxes(self, **filters: Any) -> dict[str, Any]:
        """Return the sandboxes in any state, by id; `filters` are the fields of PodSandboxFilter."""
        answer = self.call("ListPodSandbox", filter=MESSAGES["PodSandboxFilter"](**filters))
        return {item.id: item for item in answer.items}

    def status(self, sandbox_id: str) -> Any:
        """Return the PodSandboxStatus of one sandbox."""
        return self.call("PodSandboxStatus", pod_sandbox_id=sandbox_id).status

    def run(self, config: dict[str, Any]) -> str:
        """Make a sandbox of these fields of PodSandboxConfig; return its id."""
        answer = self.call("RunPodSandbox", config=MESSAGES["PodSandboxConfig"](**config))
        return str(answer.pod_sandbox_id)
