"""Settings from where an operator writes them: flag, then `CNI_CLEANUP_*` variable, then config file, then default."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cni.errors import UsageError
from cni.names import is_network_name, is_node_name
from cni.settings import Settings

_PREFIX = "CNI_CLEANUP_"
_NO_SETTINGS = {"config"}
_LIMITS = ("root", "cnifiles", "networks", "min-age", "confirm-after", "max-remove", "dry-run")
"""Which files a pass may take, and when: left out by mistake they would have it do more."""

_MAY_HOLD_A_PASSWORD = ("broker", "jaegerurl", "urlserver")

CONFIG_FILE = ".api-cni-cleanup.yaml"
"""In the home directory; the name that the tool before this one used."""

_OTHER_FORMS = (".toml", ".hcl", ".properties", ".props", ".prop", ".ini")
"""What a file is called that the library of the tool before this one would have read as something else than YAML."""

_log = logging.getLogger(__name__)

_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?|0", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting as it is written down: the flag, the variable and the key of the config file that its name makes."""

    #: The name of the flag without its dashes.
    name: str
    #: The field of Settings.
    field: str
    #: None where the flag takes no value.
    metavar: str | None
    help: str
    #: Raises ValueError with what is wanted instead.
    parse: Callable[[str], Any]
    #: Read where the variable of its own name is not set.
    other_variable: str | None = None
    #: The one command that has the flag; None where all have it.
    only_for: str | None = None

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"{_PREFIX}{self.name.upper().replace('-', '_')}"


def seconds(text: str) -> float:
    """Read `15m`, `1h30m`, `90s`, `0` or `0.5s` as seconds. A number alone is refused: 15 may be meant as minutes.

    Raises:
        ValueError: it is none of these.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or not found[0]:
        raise ValueError("a time with its unit is wanted, such as 15m, 90s or 1h30m")
    hours, minutes, rest = (float(part or 0) for part in found.group("h", "m", "s"))
    total = hours * 3600 + minutes * 60 + rest
    if total > 366 * 86400:
        raise ValueError("a time of at most a year is wanted")
    return total


def node_name(text: str) -> str:
    """Read the name of a node, an RFC 1123 subdomain.

    Raises:
        ValueError: it is none.
    """
    if not is_node_name(text):
        raise ValueError("the name of a node is wanted: lower-case letters, digits, - and .")
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)} is wanted")
        return text

    return parse


def _absolute(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("an absolute path is wanted")
    return os.path.normpath(text)


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a path is wanted")
    return os.path.abspath(text)


def _endpoint(text: str) -> str:
    if text in ("auto", "none") or re.fullmatch(r"unix:///[^\0]+", text):
        return text
    raise ValueError("auto, none or unix:///path/of/the.sock is wanted")


def _parts(parse: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    def parse_all(text: str) -> tuple[str, ...]:
        found = tuple(parse(part.strip()) for part in text.split(",") if part.strip())
        if not found:
            raise ValueError("at least one is wanted, several separated by commas")
        return found

    return parse_all


def _networks(text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not names or not all(is_network_name(name) for name in names):
        raise ValueError("names of networks are wanted, separated by commas")
    return names


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("a number from 0 to 999999999 is wanted")
    return int(text)


def _percent(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > 100:
        raise ValueError("a percentage from 0 (never) to 100 is wanted")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("true or false is wanted")
    return text.lower() in ("true", "1", "yes")


def _broker(text: str) -> str:
    wanted = (
        "a Redis URL such as redis://:password@host:6379/0 is wanted (in the password / is %2F, ? is %3F, # is %23, @ is %40)"
    )
    if not re.fullmatch(r"rediss?://[^\s/]+\S*", text):
        raise ValueError(wanted)
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError as error:
        raise ValueError(wanted) from error
    if parts.fragment or not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError(wanted)
    return text


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if (
        not colon
        or not re.fullmatch(r"[0-9]{1,5}", port)
        or int(port) > 65535
        or not re.fullmatch(r"[0-9A-Za-z.:%-]*|\[.+\]", host)
    ):
        raise ValueError("an address and a port such as :9010, 127.0.0.1:9010 or [::1]:9010 is wanted")
    return text


def collector_url(text: str) -> str:
    """Read the URL of a collector of traces.

    Raises:
        ValueError: it is none.
    """
    wanted = "the URL of an OTLP/HTTP collector is wanted, such as http://collector:4318"
    if not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError(wanted)
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # reading it is what checks it
    except ValueError as error:
        raise ValueError(wanted) from error
    if not parts.hostname or parts.fragment:
        raise ValueError(wanted)
    return text


def _sidecars(text: str) -> tuple[str, ...]:
    urls = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not urls:
        raise ValueError("URLs such as http://10.0.0.7:9010 are wanted, separated by commas")
    for url in urls:
        _check_sidecar(url)
    return urls


def _check_sidecar(url: str) -> None:
    # Imported here: only `job --urlserver` has sidecars.
    import urllib3

    shown = "" if "@" in url else f", not {url[:80]!r}"
    wanted = f"a URL such as http://10.0.0.7:9010 is wanted{shown}"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # reading it is what checks it
        # What is sent is this one's idea of it.
        urllib3.util.parse_url(url)
    except (ValueError, urllib3.exceptions.LocationParseError) as error:
        raise ValueError(wanted) from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("there is no name and password in such a URL: the token is in a file (--token-file)")
    if parts.scheme not in ("http", "https") or not parts.hostname or any(letter.isspace() for letter in url):
        raise ValueError(wanted)


def _schedule(text: str) -> str:
    # What the fields may say is for the scheduler to check: it alone has a parser of them.
    if len(text.split()) != 5:
        raise ValueError("five fields are wanted (minute, hour, day of the month, month, day of the week), such as 0 8 * * 1")
    return text


def _timezone(text: str) -> str:
    # Imported here: only Beat has a time zone.
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("the name of a time zone such as UTC or Europe/Berlin is wanted") from error
    return text


OPTIONS: tuple[Option, ...] = (
    Option(
        name="api",
        field="api",
        metavar="internal|external|none",
        help="How to ask the Kubernetes API: by this pod's service account, by a kubeconfig (KUBECONFIG), or not. [internal]",
        parse=_one_of("internal", "external", "none"),
    ),
    Option(
        name="cnifiles",
        field="cnifiles",
        metavar="DIR",
        help="The CNI directory, one network's directory, or a directory of networks. [/var/lib/cni]",
        parse=_absolute,
    ),
    Option(
        name="root",
        field="root",
        metavar="DIR",
        help="Where the node's file system is: prefixes every path of the node. [/]",
        parse=_path,
    ),
    Option(
        name="node",
        field="node",
        metavar="NAME",
        help="The name of this node in Kubernetes. [NODE_NAME]",
        parse=node_name,
        other_variable="NODE_NAME",
    ),
    Option(
        name="state-dir",
        field="state_dir",
        metavar="DIR",
        help="Where the journal, the report and the pass lock are kept. [/var/lib/cni-cleanup]",
        parse=_path,
    ),
    Option(
        name="runtime-endpoint",
        field="runtime_endpoint",
        metavar="auto|none|unix:///...",
        help="The CRI socket; auto asks every known one that exists. [auto]",
        parse=_endpoint,
    ),
    Option(
        name="conf-dir",
        field="conf_dirs",
        metavar="DIR,DIR",
        help="Where network configurations are, for the capacities. [/etc/cni/net.d and k3s' own]",
        parse=_parts(_absolute),
    ),
    Option(
        name="min-age",
        field="min_age",
        metavar="TIME",
        help="Files younger than this are never touched. [15m]",
        parse=seconds,
    ),
    Option(
        name="confirm-after",
        field="confirm_after",
        metavar="TIME",
        help="Time between the two looks of a pass. [60s]",
        parse=seconds,
    ),
    Option(
        name="networks",
        field="networks",
        metavar="NAME,NAME",
        help="Only these networks; it narrows a pass and never widens it.",
        parse=_networks,
    ),
    Option(
        name="max-remove",
        field="max_remove",
        metavar="N",
        help="Remove at most N reservations in one pass.",
        parse=_count,
    ),
    Option(
        name="early-at",
        field="early_at",
        metavar="PERCENT",
        help="When a network is so full, the worker makes a pass at once; 0 is never. [80]",
        parse=_percent,
    ),
    Option(
        name="dry-run",
        field="dry_run",
        metavar=None,
        help="Decide and report, remove nothing.",
        parse=_truth,
    ),
    Option(
        name="pods-file",
        field="pods_file",
        metavar="FILE",
        help="`kubectl get pods -A -o json` instead of the API (not for a live node's clean).",
        parse=_path,
    ),
    Option(
        name="sandboxes-file",
        field="sandboxes_file",
        metavar="FILE",
        help="`crictl pods -o json` instead of the runtime (not for a live node's clean).",
        parse=_path,
    ),
    Option(
        name="broker",
        field="broker",
        metavar="URL",
        help="The Redis that sweeps go through. [redis://127.0.0.1:6379/0]",
        parse=_broker,
    ),
    Option(
        name="broker-password-file",
        field="broker_password_file",
        metavar="FILE",
        help="Holds the password of that Redis, for a URL without one.",
        parse=_path,
    ),
    Option(
        name="static-nodes",
        field="static_nodes",
        metavar="NAME,NAME",
        help="The nodes of a sweep.",
        parse=_parts(node_name),
    ),
    Option(
        name="schedule",
        field="schedule",
        metavar="CRON",
        help="When Beat starts the sweep, in cron form. [0 8 * * 1]",
        parse=_schedule,
    ),
    Option(
        name="timezone",
        field="timezone",
        metavar="ZONE",
        help="The time zone of the schedule. [UTC]",
        parse=_timezone,
    ),
    Option(
        name="listen",
        field="listen",
        metavar="HOST:PORT",
        help="Where the sidecar serves; without a host on every address of the machine. [:9010]",
        parse=_listen,
    ),
    Option(
        name="token-file",
        field="token_file",
        metavar="FILE",
        help="Holds the bearer token: the sidecar's own, or the one that job --urlserver shows to sidecars.",
        parse=_path,
    ),
    Option(
        name="autodiscover",
        field="autodiscover",
        metavar=None,
        help="All nodes that run the worker, through the broker.",
        parse=_truth,
        only_for="job",
    ),
    Option(
        name="urlserver",
        field="urlserver",
        metavar="URL,URL",
        help="Ask these sidecars by HTTP instead, without the broker.",
        parse=_sidecars,
        only_for="job",
    ),
    Option(
        name="log-format",
        field="log_format",
        metavar="auto|json|text",
        help="How the long-running processes log; auto is text on a terminal and JSON elsewhere. [auto]",
        parse=_one_of("auto", "json", "text"),
    ),
    Option(
        name="jaegerurl",
        field="jaegerurl",
        metavar="URL",
        help="Where traces go, OTLP over HTTP, as http://collector:4318; without it the OTEL_* variables say so.",
        parse=collector_url,
    ),
    Option(
        name="debug",
        field="debug",
        metavar=None,
        help="Tell more on stderr.",
        parse=_truth,
    ),
)


def load_settings(flags: Mapping[str, str], environ: Mapping[str, str], *, config: str | None = None) -> Settings:
    """The settings of a node, each from the first place that has it.

    `flags` are by the name of the option; `config` is the file that a flag named. An unknown key of the file is a warning.

    Raises:
        UsageError: a value is not what its option wants, or a named file cannot be read.
    """
    _refuse_typos(environ)
    named = config or environ.get("CNI_CLEANUP_CONFIG")
    home = environ.get("HOME")
    file = named or (os.path.join(home, CONFIG_FILE) if home else None)
    in_file = _read_config(file, required=named is not None) if file else {}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        found = _first(option, flags, environ, in_file, file)
        if found is None:
            continue
        where, text = found
        try:
            values[option.field] = option.parse(text)
        except ValueError as error:
            shown = "" if option.name in _MAY_HOLD_A_PASSWORD else f" is {text[:80]!r}"
            raise UsageError(f"{where}{shown}: {error}") from error
    in_cluster = bool(environ.get("KUBERNETES_SERVICE_HOST"))
    return Settings(**values, pod_uid=environ.get("POD_UID") or None, in_cluster=in_cluster)


def settings_from_environment() -> Settings:
    """The settings of a process that has no command line of ours: one that `celery` started.

    Raises:
        UsageError: see load_settings.
    """
    return load_settings({}, os.environ)


def environment_of(settings: Settings) -> dict[str, str]:
    """`settings` as the variables that `settings_from_environment` reads them from, in a process that this one starts."""
    written = {option.variable: _written(getattr(settings, option.field)) for option in OPTIONS}
    return {variable: text for variable, text in written.items() if text}


def environment_for(settings: Settings) -> dict[str, str]:
    """The environment of a process of ours that this one starts: its own, with `settings` in place of what it says of any."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(_PREFIX)}
    # Nor is a file in the home directory to say what these settings leave open.
    return {**inherited, **environment_of(settings), f"{_PREFIX}CONFIG": os.devnull}


def _written(value: object) -> str:
    """A setting as its option parses it; empty where there is none."""
    if isinstance(value, (tuple, frozenset)):
        return ",".join(sorted(value) if isinstance(value, frozenset) else value)
    if isinstance(value, float):
        return f"{value:.9f}s"
    return "" if value is None else _as_text(value)


def _refuse_typos(environ: Mapping[str, str]) -> None:
    names = {option.name for option in OPTIONS} | _NO_SETTINGS
    known = {f"{_PREFIX}{name.upper().replace('-', '_')}" for name in names}
    for name in sorted(name for name in environ if name.upper().startswith(_PREFIX) and name not in known):
        _refuse_near_miss(name[len(_PREFIX) :], f"the variable {name}")
        _log.warning("the variable %s is none of this program's and is ignored", name, extra={"action": "unknown_variable"})


def _refuse_near_miss(name: str, where: str) -> None:
    """Refuse what is an option's name but for case, dashes and underscores: ignored, it would leave a limit out.

    Raises:
        UsageError: it is.
    """
    for option in OPTIONS:
        if _letters(option.name) == _letters(name):
            raise UsageError(f"{where} is none of this program's: {option.variable} or {option.name} is meant")


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _first(
    option: Option, flags: Mapping[str, str], environ: Mapping[str, str], in_file: Mapping[str, str], file: str | None
) -> tuple[str, str] | None:
    """Where a setting is written, for people, and what stands there."""
    if option.name in flags:
        return f"--{option.name}", flags[option.name]
    for variable in (option.variable, option.other_variable):
        # An empty variable is how manifests leave one out; of a limit it may have been meant to be one.
        if variable is not None and (environ.get(variable) or (variable in environ and option.name in _LIMITS)):
            return variable, environ[variable]
    if option.name in in_file:
        return f"{option.name} in {file}", in_file[option.name]
    return None


def _read_config(path: str, *, required: bool) -> dict[str, str]:
    if os.path.splitext(path)[1].lower() in _OTHER_FORMS:
        raise UsageError(f"the config file {path} is of a form that is not read: write it as YAML, `name: value` a line, or JSON")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not required:
            return {}
        raise UsageError(f"the config file {path} does not exist") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the config file {path} cannot be read: {why}") from error
    # Imported here: most nodes have no such file, and need not wait for it.
    import yaml

    try:
        value = yaml.safe_load(text)
        twice = _written_twice(yaml.compose(text, Loader=yaml.SafeLoader))
    # PyYAML lets some of what it meets in a bad scalar through as it is.
    except (ValueError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"the config file {path} cannot be read: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if twice:
        raise UsageError(f"the config file {path} says {twice} twice: leave one of them out")
    if not isinstance(value, dict):
        raise UsageError(f"the config file {path} has no lines of the form `name: value` (YAML or JSON)")
    return _known(value, path)


def _written_twice(document: Any) -> str | None:
    """A key that stands twice in one spelling, of which PyYAML takes the last."""
    keys = [key.value for key, _ in document.value if isinstance(key.value, str)] if document and document.id == "mapping" else []
    return next((key for key in keys if keys.count(key) > 1), None)


def _known(value: Mapping[Any, Any], path: str) -> dict[str, str]:
    """The settings among what a config file says, by their names; a key may be in any case, as in the tool before this one."""
    known = {option.name for option in OPTIONS} | _NO_SETTINGS
    found: dict[str, str] = {}
    for written, inner in value.items():
        key = str(written).lower().replace("_", "-")
        if key in found:
            raise UsageError(f"the config file {path} says {key} twice: leave one of them out")
        found[key] = _as_text(inner)
    for key in sorted(found.keys() - known):
        _refuse_near_miss(key, f"the key {key} of {path}")
        _log.warning("%s: unknown key %s is ignored", path, key, extra={"action": "unknown_key"})
    return {key: inner for key, inner in found.items() if key in known}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(str(inner) for inner in value)
    # A key without a value is no wish for the default: it may have been meant to narrow the pass.
    return "" if value is None else str(value)
