"""Flag, then variable, then config file, then default; and one line for nonsense, which names where it stood."""

import dataclasses
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cni.errors import UsageError
from cni.settings import Settings
from workers.configuration import (
    CONFIG_FILE,
    OPTIONS,
    Option,
    environment_of,
    load_settings,
    node_name,
    seconds,
    settings_from_environment,
)

BY_NAME = {option.name: option for option in OPTIONS}

# Three values of each option as they are written, and what they mean.
VALUES: dict[str, list[tuple[str, Any]]] = {
    "api": [("external", "external"), ("none", "none"), ("internal", "internal")],
    "cnifiles": [("/a", "/a"), ("/b/", "/b"), ("/c/../d", "/d")],
    "root": [("/a", "/a"), ("/b/", "/b"), ("relative", os.path.abspath("relative"))],
    "node": [("node-1", "node-1"), ("a.b.c", "a.b.c"), ("7", "7")],
    "state-dir": [("/a", "/a"), ("/b", "/b"), ("c", os.path.abspath("c"))],
    "runtime-endpoint": [("unix:///run/a.sock", "unix:///run/a.sock"), ("none", "none"), ("auto", "auto")],
    "conf-dir": [("/a", ("/a",)), ("/a,/b", ("/a", "/b")), (" /a/ , ,/b", ("/a", "/b"))],
    "min-age": [("15m", 900.0), ("1h30m5s", 5405.0), ("0", 0.0)],
    "confirm-after": [("60s", 60.0), ("0.5s", 0.5), ("2m", 120.0)],
    "networks": [("a", {"a"}), ("a,b", {"a", "b"}), (" a.b_c-1 ,, d", {"a.b_c-1", "d"})],
    "max-remove": [("0", 0), ("1", 1), ("000999999", 999999)],
    "early-at": [("0", 0), ("80", 80), ("100", 100)],
    "dry-run": [("true", True), ("no", False), ("YES", True)],
    "pods-file": [("/a", "/a"), ("/b", "/b"), ("c", os.path.abspath("c"))],
    "sandboxes-file": [("/a", "/a"), ("/b", "/b"), ("c", os.path.abspath("c"))],
    "broker": [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://:p@h/1", "rediss://:p@h/1"),
        ("rediss://h?ssl_ca_certs=/ca", "rediss://h?ssl_ca_certs=/ca"),
    ],
    "static-nodes": [("a", ("a",)), ("a,b", ("a", "b")), (" a , ,b.c", ("a", "b.c"))],
    "schedule": [("0 8 * * 1", "0 8 * * 1"), ("*/5 * * * *", "*/5 * * * *"), ("30 4 1 * *", "30 4 1 * *")],
    "timezone": [("Europe/Berlin", "Europe/Berlin"), ("UTC", "UTC"), ("America/New_York", "America/New_York")],
    "listen": [(":9010", ":9010"), ("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:65535", "[::1]:65535")],
    "broker-password-file": [("/a", "/a"), ("/b", "/b"), ("c", os.path.abspath("c"))],
    "token-file": [("/a", "/a"), ("/b", "/b"), ("c", os.path.abspath("c"))],
    "log-format": [("json", "json"), ("text", "text"), ("auto", "auto")],
    "jaegerurl": [
        ("http://collector:4318", "http://collector:4318"),
        ("https://u:p@h/otlp", "https://u:p@h/otlp"),
        ("http://[::1]:4318/v1/traces?a=b", "http://[::1]:4318/v1/traces?a=b"),
    ],
    "autodiscover": [("true", True), ("no", False), ("YES", True)],
    "urlserver": [
        ("http://10.0.0.7:9010/cleanup", ("http://10.0.0.7:9010/cleanup",)),
        ("http://a:9010,http://b", ("http://a:9010", "http://b")),
        (" https://a , ,https://[::1]:9010,https://a", ("https://a", "https://[::1]:9010")),
    ],
    "debug": [("true", True), ("no", False), ("YES", True)],
}

NONSENSE: dict[str, list[str]] = {
    "api": ["", "Internal", "on", "internal,external"],
    "cnifiles": ["", "relative", "./x", "~", "a\0b"],
    "root": ["", "/a\0b"],
    "node": ["", "Node-1", "a_b", "-a", "a-", "a..b", ".a", "a b", "a\n", "a,b", "x" * 254, "é", "*"],
    "state-dir": ["", "a\0"],
    "runtime-endpoint": ["", "containerd", "/run/x.sock", "unix:/run/x", "unix://run/x", "unix:///", "tcp://h:1", "AUTO"],
    "conf-dir": ["", ",", "relative", "/a,b", "/a\0"],
    "min-age": ["", "15", "m", "15x", "-5s", "5 m", "1e3", "inf", "nan", "0x10", "\u0661m", "1m1h", "1,5s", "9" * 400, "9000h"],
    "confirm-after": ["", "soon", "-1", "s", "1..5s"],
    "networks": ["", ",", " ", "a,*", "a/b", "../x", ".a", "-a", "a b", "é"],
    "max-remove": ["", "-1", "1.5", "many", "1e3", " 1", "\u0661", "1_000", "9" * 10],
    "early-at": ["", "101", "-1", "80%", "0.8", "often", "\u0661", "1000"],
    "dry-run": ["maybe", "2", "on", "truee"],
    "pods-file": ["", "a\0"],
    "sandboxes-file": ["", "a\0"],
    "broker": [
        "", "localhost", "http://h:1", "redis:", "redis://", "redis:// h", "amqp://h", "redis+socket:///run/r", "unix:///r",
        "redis://h:99999999/0", "redis://h:port/0",
    ],
    "static-nodes": ["", " , ", "A", "a,B", "a,b c", "a;b"],
    # What the five fields say only Beat can read: tests/unit/test_schedule.py.
    "schedule": ["", "nonsense", "0 8 * *", "0 8 * * 1 2"],
    "timezone": ["", "Mars/Olympus", "Europe", "../../etc/passwd", "/etc/localtime", "UTC ", "\udcff"],
    "listen": ["", "9010", "9010x", ":", ":port", ":-1", ":65536", ":999999", "a b:1", "h:1/2", "[::1]", "\u0661:1", ":\u0661", "http://h:1"],
    "broker-password-file": ["", "a\0"],
    "token-file": ["", "a\0"],
    "log-format": ["", "JSON", "logfmt"],
    "jaegerurl": [
        "", "collector", "collector:4318", "udp://c:6831", "grpc://c:4317", "http:", "http://", "http:///v1/traces", "http://:4318",
        "http://c:port", "http://c:99999", "http://c d:4318", "http://c#a", "http://[::1", "http://c\n", "http://\u00e9",
    ],
    "autodiscover": ["", "perhaps", "2"],
    "urlserver": [
        "", ",", "10.0.0.7:9010", "node-1", "ftp://h", "http://", "http://h:port", "http://h:99999", "http://a,b", "http://a b/",
    ],
    "debug": ["", "perhaps", "2"],
}  # fmt: skip

NONSENSE_CASES = [
    pytest.param(BY_NAME[name], text, id=f"{name}={ascii(text)[:30]}") for name, texts in NONSENSE.items() for text in texts
]


def load(flags: dict[str, str] | None = None, variables: dict[str, str] | None = None, *, config: Path | None = None) -> Settings:
    """Load with a home directory that has no config file."""
    return load_settings(flags or {}, {"HOME": "/nonexistent", **(variables or {})}, config=str(config) if config else None)


def written(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_process_that_is_started_with_settings_reads_the_same(option: Option, which: int):
    settings = load({option.name: VALUES[option.name][which][0]})
    assert load(variables=environment_of(settings)) == settings


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def after(option: Option) -> str:
    """What stands after the name: a URL is not shown, there may be a password in it."""
    return ": " if option.name in ("broker", "jaegerurl", "urlserver") else " is "


@pytest.mark.parametrize(
    "url", ["redis://:pa/ss+w0rd==@redis:6379/0", "redis://:12/s3cret@redis:6379/0", "redis://:1#s3cret@redis/0"]
)
def test_a_password_that_was_not_escaped_is_told_what_to_do_and_not_shown(url: str):
    with pytest.raises(UsageError, match=r"/ is %2F") as error:
        load({"broker": url})
    assert not {"s3cret", "w0rd"} & set(re.findall(r"\w+", one_line(error)))


def test_the_tables_here_know_every_option():
    assert VALUES.keys() == BY_NAME.keys() == NONSENSE.keys()


def test_nothing_given_is_all_defaults():
    assert load() == Settings()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_flag_beats_variable_beats_file_beats_default(option: Option, tmp_path: Path):
    (flag, from_flag), (variable, from_variable), (in_file, from_file) = VALUES[option.name]
    config = written(tmp_path / "config.yaml", {option.name: in_file})
    variables = {option.variable: variable}
    others = dataclasses.asdict(Settings())

    def value(settings: Settings) -> Any:
        assert dataclasses.asdict(settings) == {**others, option.field: getattr(settings, option.field)}
        return getattr(settings, option.field)

    assert value(load({option.name: flag}, variables, config=config)) == from_flag
    assert value(load({}, variables, config=config)) == from_variable
    assert value(load({}, {}, config=config)) == from_file
    assert value(load({option.name: flag})) == from_flag


@pytest.mark.parametrize(
    ("option", "text", "meaning"),
    [pytest.param(BY_NAME[name], *value, id=f"{name}={value[0]}") for name, values in VALUES.items() for value in values],
)
def test_every_form_means_what_it_says(option: Option, text: str, meaning: Any):
    assert getattr(load({option.name: text}), option.field) == meaning


@pytest.mark.parametrize(("option", "text"), NONSENSE_CASES)
def test_nonsense_in_a_flag_is_one_line_that_names_it(option: Option, text: str):
    with pytest.raises(UsageError) as error:
        load({option.name: text})
    assert one_line(error).startswith(f"--{option.name}{after(option)}")


@pytest.mark.parametrize(("option", "text"), [case for case in NONSENSE_CASES if case.values[1] != ""])
def test_nonsense_in_a_variable_is_one_line_that_names_it(option: Option, text: str):
    with pytest.raises(UsageError) as error:
        load({}, {option.variable: text})
    assert one_line(error).startswith(f"{option.variable}{after(option)}")


@pytest.mark.parametrize(("option", "text"), [case for case in NONSENSE_CASES if str(case.values[1]).isprintable()])
def test_nonsense_in_the_file_is_one_line_that_names_both(option: Option, text: str, tmp_path: Path):
    config = written(tmp_path / "config.yaml", json.dumps({option.name: text}))
    with pytest.raises(UsageError) as error:
        load({}, {}, config=config)
    assert one_line(error).startswith(f"{option.name} in {config}{after(option)}")


def test_a_flag_hides_nonsense_behind_it(tmp_path: Path):
    config = written(tmp_path / "config.yaml", {"min-age": "nonsense"})
    assert load({"min-age": "1s"}, {"CNI_CLEANUP_MIN_AGE": "nonsense"}, config=config).min_age == 1.0


def test_an_empty_variable_is_one_that_is_not_set(tmp_path: Path):
    config = written(tmp_path / "config.yaml", {"early-at": "50"})
    assert load({}, {"CNI_CLEANUP_EARLY_AT": ""}, config=config).early_at == 50


@pytest.mark.parametrize("name", ["root", "cnifiles", "networks", "min-age", "confirm-after", "max-remove", "dry-run"])
def test_an_empty_variable_of_a_limit_is_refused_since_it_would_leave_the_limit_out(name: str):
    variable = BY_NAME[name].variable
    with pytest.raises(UsageError, match=f"^{variable} is '': ") as error:
        load(variables={variable: ""})
    one_line(error)


@pytest.mark.parametrize("name", ["CNI_CLEANUP_DRYRUN", "cni_cleanup_dry_run", "CNI_CLEANUP_DRY__RUN", "Cni_Cleanup_DryRun"])
def test_a_variable_that_is_an_option_but_for_its_spelling_is_refused(name: str):
    with pytest.raises(UsageError, match=f"^the variable {name} is none of this program's: CNI_CLEANUP_DRY_RUN or dry-run"):
        load(variables={name: "true"})


@pytest.mark.parametrize("key", ["dryRun", "dryrun", "DRYRUN", "d-r-y_run"])
def test_a_key_that_is_an_option_but_for_its_spelling_is_refused(key: str, tmp_path: Path):
    with pytest.raises(UsageError, match="CNI_CLEANUP_DRY_RUN or dry-run is meant"):
        load(config=written(tmp_path / "config.yaml", {key: True}))


@pytest.mark.parametrize("text", ["dry-run: true\ndry-run: false\n", '{"dry-run": true, "dry-run": false}'])
def test_a_key_that_stands_twice_is_refused_and_not_the_last_one_taken(text: str, tmp_path: Path):
    with pytest.raises(UsageError, match="says dry-run twice"):
        load(config=written(tmp_path / "config.yaml", text))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"NODE_NAME": "a"}, "a"),
        ({"CNI_CLEANUP_NODE": "b", "NODE_NAME": "a"}, "b"),
        ({"CNI_CLEANUP_NODE": "", "NODE_NAME": "a"}, "a"),
    ],
)
def test_node_name_is_asked_after_the_variable_of_its_own(variables: dict[str, str], expected: str | None):
    assert load({}, variables).node == expected


def test_nonsense_in_node_name_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^NODE_NAME is 'A': "):
        load({}, {"NODE_NAME": "A"})


@pytest.mark.parametrize(
    ("variables", "uid", "in_cluster"),
    [
        ({}, None, False),
        ({"POD_UID": "u"}, "u", False),
        ({"POD_UID": ""}, None, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None, True),
        ({"KUBERNETES_SERVICE_HOST": ""}, None, False),
        ({"POD_UID": "u", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "u", True),
    ],
)
def test_the_cluster_is_read_from_its_own_variables(variables: dict[str, str], uid: str | None, in_cluster: bool):
    settings = load({}, variables)
    assert (settings.pod_uid, settings.in_cluster) == (uid, in_cluster)


class TestConfigFile:
    def test_the_one_in_the_home_directory_is_read(self, tmp_path: Path):
        written(tmp_path / CONFIG_FILE, {"min-age": "1s"})
        assert CONFIG_FILE == ".api-cni-cleanup.yaml"
        assert load_settings({}, {"HOME": str(tmp_path)}).min_age == 1.0

    @pytest.mark.parametrize("home", ["/nonexistent", "/dev/null"])
    def test_one_that_nobody_named_may_be_missing(self, home: str):
        assert load_settings({}, {"HOME": home}) == Settings()

    def test_a_variable_names_one_and_a_flag_names_it_before(self, tmp_path: Path):
        first, second = written(tmp_path / "1", {"min-age": "1s"}), written(tmp_path / "2", {"min-age": "2s"})
        variables = {"CNI_CLEANUP_CONFIG": str(second)}
        assert load({}, variables).min_age == 2.0
        assert load({}, variables, config=first).min_age == 1.0

    @pytest.mark.parametrize("by_flag", [True, False])
    def test_one_that_was_named_and_is_missing_is_an_error(self, by_flag: bool, tmp_path: Path):
        missing = tmp_path / "missing.yaml"
        with pytest.raises(UsageError, match="does not exist") as error:
            load({}, {} if by_flag else {"CNI_CLEANUP_CONFIG": str(missing)}, config=missing if by_flag else None)
        assert str(missing) in one_line(error)

    @pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null", "{}"])
    def test_an_empty_one_sets_nothing(self, text: str, tmp_path: Path):
        assert load(config=written(tmp_path / "config.yaml", text)) == Settings()

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("just a sentence", id="a sentence"),
            pytest.param("- min-age", id="a list"),
            pytest.param("7", id="a number"),
            pytest.param("a: [", id="torn"),
            pytest.param("a: *b", id="an unknown alias"),
            pytest.param("\tmin-age: 1s", id="a tab"),
            pytest.param("a: 1\n b: 2", id="odd indentation"),
            pytest.param("min-age: !!python/object:os.system {}", id="an object of Python"),
            pytest.param("node: \x07", id="a control character"),
            pytest.param('node: !!int ""', id="an empty number"),
            pytest.param('node: !!float ""', id="an empty float"),
            pytest.param("node: !!timestamp soon", id="no time"),
            pytest.param("node: !!bool perhaps", id="no truth"),
            pytest.param("? [a]\n: b", id="a list as key"),
            pytest.param("[" * 3000, id="too deep"),
        ],
    )
    def test_garbage_is_one_line_that_names_the_file(self, text: str, tmp_path: Path):
        config = written(tmp_path / "config.yaml", text)
        with pytest.raises(UsageError) as error:
            load(config=config)
        assert str(config) in one_line(error)

    def test_bytes_that_are_no_text_are_one_line(self, tmp_path: Path):
        config = tmp_path / "config.yaml"
        config.write_bytes(b"min-age: \xff\xfe")
        with pytest.raises(UsageError, match="cannot be read"):
            load(config=config)

    def test_a_directory_is_one_line(self, tmp_path: Path):
        with pytest.raises(UsageError, match="cannot be read: Is a directory"):
            load(config=tmp_path)

    def test_an_unknown_key_is_a_warning_and_the_others_count(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        config = written(tmp_path / "config.yaml", {"min-agee": "1s", "7": "x", "min-age": "2s"})
        with caplog.at_level(logging.WARNING):
            assert load(config=config).min_age == 2.0
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == 2
        assert all(str(config) in line and "unknown" in line for line in warned)
        assert any("min-agee" in line for line in warned)

    def test_names_may_be_in_any_case(self, tmp_path: Path):
        config = written(tmp_path / "config.yaml", {"CNIFiles": "/a", "JaegerURL": "http://c:4318", "DRY_RUN": True})
        settings = load(config=config)
        assert (settings.cnifiles, settings.jaegerurl, settings.dry_run) == ("/a", "http://c:4318", True)

    def test_a_name_in_two_spellings_is_an_error_and_no_guess(self, tmp_path: Path):
        config = written(tmp_path / "config.yaml", "dry-run: true\nDry_Run: false\n")
        with pytest.raises(UsageError, match="says dry-run twice") as error:
            load(config=config)
        assert str(config) in one_line(error)

    @pytest.mark.parametrize("name", ["config.toml", "CONFIG.TOML", "c.hcl", "c.properties"])
    def test_another_form_is_told_by_its_name_what_to_do(self, name: str, tmp_path: Path):
        config = written(tmp_path / name, 'cnifiles = "/a"')
        with pytest.raises(UsageError, match="write it as YAML") as error:
            load(config=config)
        assert str(config) in one_line(error)

    def test_json_is_read(self, tmp_path: Path):
        config = written(tmp_path / "config.json", json.dumps({"cnifiles": "/a", "autodiscover": True}, indent=2))
        assert (load(config=config).cnifiles, load(config=config).autodiscover) == ("/a", True)

    def test_names_may_have_underscores(self, tmp_path: Path):
        config = written(tmp_path / "config.yaml", {"min_age": "2s", "conf_dir": "/a"})
        assert (load(config=config).min_age, load(config=config).conf_dirs) == (2.0, ("/a",))

    @pytest.mark.parametrize(
        ("text", "field", "expected"),
        [
            ("min-age: 900s", "min_age", 900.0),
            ("min-age: 0", "min_age", 0.0),
            ("max-remove: 7", "max_remove", 7),
            ("dry-run: true", "dry_run", True),
            ("dry-run: no", "dry_run", False),
            ("networks: [a, b]", "networks", {"a", "b"}),
            ("static-nodes:\n- a\n- b.c\n", "static_nodes", ("a", "b.c")),
            ("conf-dir: [/a, /b]", "conf_dirs", ("/a", "/b")),
            ("runtime-endpoint: none", "runtime_endpoint", "none"),
            ("schedule: 0 8 * * 1", "schedule", "0 8 * * 1"),
        ],
    )
    def test_values_may_be_as_yaml_writes_them(self, text: str, field: str, expected: Any, tmp_path: Path):
        assert getattr(load(config=written(tmp_path / "config.yaml", text)), field) == expected

    @pytest.mark.parametrize(
        "text", ["api: off", "node: {a: 1}", "node: [a, b]", "max-remove: true", "dry-run: 2", "min-age:", "networks: []"]
    )
    def test_values_of_another_type_are_nonsense(self, text: str, tmp_path: Path):
        config = written(tmp_path / "config.yaml", text)
        with pytest.raises(UsageError) as error:
            load(config=config)
        assert one_line(error).startswith(f"{text.partition(':')[0]} in {config} is ")


def test_a_process_without_a_command_line_reads_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in [name for name in os.environ if name.startswith(("CNI_CLEANUP_", "NODE_NAME", "POD_UID", "KUBERNETES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CNI_CLEANUP_NODE", "node-7")
    assert settings_from_environment() == Settings(node="node-7")


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_a_time_is_the_sum_of_its_parts(hours: int, minutes: int, rest: int):
    total = hours * 3600 + minutes * 60 + rest
    assert seconds(f"{hours}h{minutes}m{rest}s") == total
    assert seconds(f" {total}s ") == total


def read_or_refused(parse: Any, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        return error


@given(st.sampled_from(OPTIONS), st.text(max_size=20) | st.text("0123456789hms. -", max_size=8))
def test_any_text_is_read_or_refused(option: Option, text: str):
    assert read_or_refused(option.parse, text) is not None


@given(st.text("0123456789hms. ", max_size=8))
def test_a_time_is_never_negative_nor_endless(text: str):
    value = read_or_refused(seconds, text)
    assert isinstance(value, ValueError) or 0 <= value <= 366 * 86400


@given(st.text(max_size=12) | st.text("abz019-.", max_size=12))
def test_a_node_name_goes_into_a_queue_and_a_selector_as_it_is(text: str):
    value = read_or_refused(node_name, text)
    assert isinstance(value, ValueError) or (value == text and set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-."))
