"""
The part of the Container Runtime Interface that the runtime witness speaks: runtime.v1.RuntimeService.

Field numbers are those of the published API (kubernetes/cri-api pkg/apis/runtime/v1/api.proto). The messages are built from this
table when the module is imported, so that no generated code has to match a version of protobuf. Fields that are not in the table
are skipped on reading, as protobuf does.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

SERVICE = "runtime.v1.RuntimeService"
OLD_SERVICE = "runtime.v1alpha2.RuntimeService"
"""What containerd up to 1.5 and CRI-O up to 1.22 speak."""

READY = 0
"""PodSandboxState.SANDBOX_READY; enums are read as the integers that they are on the wire."""
NODE = 2
"""NamespaceMode.NODE: the sandbox uses the node's own network."""

_INT32, _STRING, _MESSAGE, _INT64 = 5, 9, 11, 3

# message -> field -> (number, type or name of a message, repeated)
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "VersionRequest": {"version": (1, _STRING, False)},
    "VersionResponse": {"runtime_name": (2, _STRING, False), "runtime_version": (3, _STRING, False)},
    "PodSandboxMetadata": {"name": (1, _STRING, False), "uid": (2, _STRING, False), "namespace": (3, _STRING, False)},
    "PodSandbox": {
        "id": (1, _STRING, False),
        "metadata": (2, "PodSandboxMetadata", False),
        "state": (3, _INT32, False),
        "created_at": (4, _INT64, False),
    },
    "ListPodSandboxRequest": {},
    "ListPodSandboxResponse": {"items": (1, "PodSandbox", True)},
    "PodSandboxStatusRequest": {"pod_sandbox_id": (1, _STRING, False)},
    "PodIP": {"ip": (1, _STRING, False)},
    "PodSandboxNetworkStatus": {"ip": (1, _STRING, False), "additional_ips": (2, "PodIP", True)},
    "NamespaceOption": {"network": (1, _INT32, False)},
    "Namespace": {"options": (2, "NamespaceOption", False)},
    "LinuxPodSandboxStatus": {"namespaces": (1, "Namespace", False)},
    "PodSandboxStatus": {
        "id": (1, _STRING, False),
        "network": (5, "PodSandboxNetworkStatus", False),
        "linux": (6, "LinuxPodSandboxStatus", False),
    },
    "PodSandboxStatusResponse": {"status": (1, "PodSandboxStatus", False)},
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="cni_cleanup/cri.proto", package="runtime.v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            added.type = descriptor_pb2.FieldDescriptorProto.Type.ValueType(_MESSAGE if isinstance(kind, str) else kind)
            if isinstance(kind, str):
                added.type_name = f".runtime.v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"runtime.v1.{name}")) for name in _MESSAGES}


_CLASSES = _build()


def request(name: str, **fields: str) -> Message:
    """A message of the table, filled.

    Raises:
        KeyError: the table has no such message.
    """
    message: Message = _CLASSES[name](**fields)
    return message


def decode(name: str, data: bytes) -> Any:
    """A message of the table, read from the wire.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    return _CLASSES[name].FromString(data)
