"""Every default that the command line's contract promises, and what settings make of a pass."""

import dataclasses
from typing import Any

import pytest

from cni.settings import Settings
from workers.configuration import OPTIONS, seconds

PROMISED = {
    "api": "internal",
    "cnifiles": "/var/lib/cni",
    "root": "/",
    "node": None,
    "state_dir": "/var/lib/cni-cleanup",
    "runtime_endpoint": "auto",
    "conf_dirs": ("/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    "min_age": 15 * 60.0,
    "confirm_after": 60.0,
    "networks": None,
    "early_at": 80,
    "max_remove": None,
    "dry_run": False,
    "pods_file": None,
    "sandboxes_file": None,
    "broker": "redis://127.0.0.1:6379/0",
    "static_nodes": (),
    "schedule": "0 8 * * 1",
    "timezone": "UTC",
    "listen": ":9010",
    "broker_password_file": None,
    "token_file": None,
    "autodiscover": False,
    "urlserver": (),
    "log_format": "auto",
    "jaegerurl": None,
    "debug": False,
    "pod_uid": None,
    "in_cluster": False,
}


def test_nothing_set_is_what_the_contract_promises():
    assert dataclasses.asdict(Settings()) == PROMISED


def test_every_setting_is_an_option_but_what_the_cluster_says():
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert {option.field for option in OPTIONS} == fields - {"pod_uid", "in_cluster"}


def test_the_help_names_the_defaults():
    shown = {option.field: option.help.rpartition("[")[2].removesuffix("]") for option in OPTIONS if option.help.endswith("]")}
    for name in ("min_age", "confirm_after"):
        assert seconds(shown.pop(name)) == PROMISED[name]
    assert shown.pop("node") == "NODE_NAME"
    assert shown.pop("conf_dirs") == "/etc/cni/net.d and k3s' own"
    assert int(shown.pop("early_at")) == PROMISED["early_at"]
    assert shown == {name: PROMISED[name] for name in shown}
    assert {"api", "cnifiles", "root", "state_dir", "runtime_endpoint", "broker", "schedule", "timezone"} <= shown.keys()


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().min_age = 0.0  # type: ignore[misc]  # that is what is tried


@pytest.mark.parametrize(
    ("given", "offline"),
    [({}, False), ({"pods_file": "p"}, True), ({"sandboxes_file": "s"}, True), ({"pods_file": "p", "sandboxes_file": "s"}, True)],
)
def test_one_file_for_a_witness_makes_it_offline(given: dict[str, Any], offline: bool):
    assert Settings(**given).is_offline is offline


def test_a_policy_is_as_the_report_shows_it():
    policy = Settings(min_age=900.0, confirm_after=60.0, max_remove=7).policy()
    assert policy.document() == {"min_age_seconds": 900, "confirm_after_seconds": 60, "max_remove": 7, "dry_run": False}


@pytest.mark.parametrize(
    ("own", "asked", "result"), [(False, False, False), (False, True, True), (True, False, True), (True, True, True)]
)
def test_a_caller_can_ask_for_a_dry_run_and_never_turn_one_off(own: bool, asked: bool, result: bool):
    assert Settings(dry_run=own).policy(dry_run=asked).dry_run is result
