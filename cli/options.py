"""The options that every command shares, before or after its name."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import click

from cni.errors import UsageError
from cni.settings import Settings
from workers.configuration import OPTIONS, load_settings

_log = logging.getLogger(__name__)

_GIVEN = "cli.options.given"

EVERY = ("config", *(option.name for option in OPTIONS if option.only_for is None))
"""The names of all shared options."""

_TOOK_VALUES = ("debug", "autodiscover")
"""Flags of the tool before this one, which took `--debug=false` as well: `without_flag_values`."""

_OLDER_NAMES = {"jaegerurl": "jaeger"}
"""What the tool before this one called an option at first."""

FLEET = ("broker", "broker-password-file", "static-nodes", "schedule", "timezone", "listen", "token-file", "log-format")
"""Of those, what a single node does without."""

NODE = tuple(name for name in EVERY if name not in FLEET)
"""And what it needs."""

MORE = "Every option that commands share: cni-cleanup --help"
"""Under the help of a command."""

Command = TypeVar("Command", bound=Callable[..., Any])


def shared_options(*shown: str) -> Callable[[Command], Command]:
    """Give a command, or the program itself, every option of the contract. Their values go into the context.

    Its help lists those that are `shown`; the program's own lists them all.
    """

    def decorate(function: Command) -> Command:
        for option in reversed(OPTIONS):
            if option.only_for is not None and option.name not in shown:
                continue
            takes: dict[str, Any] = {"is_flag": True, "default": None} if option.metavar is None else {"metavar": option.metavar}
            function = click.option(
                f"--{option.name}",
                help=option.help,
                hidden=option.name not in shown,
                expose_value=False,
                callback=_keep,
                **takes,
            )(function)
            if option.name in _OLDER_NAMES:
                function = _hidden(f"--{_OLDER_NAMES[option.name]}", option.name)(function)
            if option.name in _TOOK_VALUES:
                function = _hidden(f"--no-{option.name}", option.name, is_flag=True, flag_value="false")(function)
        return click.option(
            "--config",
            metavar="FILE",
            help="A YAML file with the same names. [~/.api-cni-cleanup.yaml]",
            hidden="config" not in shown,
            expose_value=False,
            callback=_keep,
        )(function)

    return decorate


def without_flag_values(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--debug=true` and `--debug=false`, as the tool before this one took them, in our own form."""
    return [_FLAG_VALUES.get(argument.lower(), argument) for argument in arguments]


_FLAG_VALUES = {
    f"--{name}={value}": f"--{prefix}{name}"
    for name in _TOOK_VALUES
    for prefix, values in (("", ("true", "t", "1")), ("no-", ("false", "f", "0")))
    for value in values
}


def _hidden(flag: str, name: str, **takes: Any) -> Callable[[Command], Command]:
    """Another way to write the option `name`, which no help shows."""

    def keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:  # noqa: ARG001  # click's signature
        if value is not None:
            context.meta.setdefault(_GIVEN, {})[name] = value

    return click.option(flag, hidden=True, expose_value=False, callback=keep, default=None, **takes)


def given_flags(context: click.Context) -> Mapping[str, str]:
    """The shared options that stand on the command line, before or after the command, by their names."""
    given: Mapping[str, str] = context.meta.get(_GIVEN, {})
    return given


def settings_of(context: click.Context) -> Settings:
    """The settings of a command: its flags, then those given before its name, then environment, config file, defaults.

    Raises:
        UsageError: a value is not what its option wants.
    """
    given = given_flags(context)
    flags = {name: value for name, value in given.items() if name != "config"}
    logging.basicConfig(level=logging.WARNING, format="cni-cleanup: %(message)s", force=True)
    settings = load_settings(flags, os.environ, config=given.get("config"))
    if settings.debug:
        logging.getLogger().setLevel(logging.DEBUG)
    # A URL may hold a password.
    shown = replace(settings, broker="...", jaegerurl=settings.jaegerurl and "...")
    _log.debug("settings: %s", shown, extra={"action": "settings"})
    return settings


def log_as_service(settings: Settings) -> None:
    """Log from here on as the long-running processes do."""
    from workers import logs

    logs.set_up(settings.log_format, node=settings.node, level=logging.DEBUG if settings.debug else logging.INFO)


def refuse_flags(context: click.Context, *refused: str, why: str) -> None:
    """Refuse flags that would limit something else than this command, before or after its name: silence would look like consent.

    Raises:
        UsageError: there is one.
    """
    given = given_flags(context)
    for name in refused:
        if name in given:
            raise UsageError(f"--{name} {why}")


def _keep(context: click.Context, parameter: click.Parameter, value: str | bool | None) -> None:  # noqa: FBT001  # click's signature
    """Options of the command are parsed after the program's own, so that the nearer one wins."""
    if value is not None:
        name = str(parameter.name).replace("_", "-")
        context.meta.setdefault(_GIVEN, {})[name] = "true" if value is True else str(value)
