"""The netns witness: which names exist, which of them are mounted namespaces, and when nobody can tell."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.evidence import NETNS_DIR, NamespaceDirectory
from tests.support.namespaces import Namespaces
from workers.mounts import follows_mounts
from workers.netns import STATE_DIRS, ask_namespaces
from workers.paths import Root


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's root with an empty directory of namespaces."""
    (tmp_path / "run/netns").mkdir(parents=True)
    return tmp_path


def look(node: Path, path: str = NETNS_DIR, *, named: tuple[str, ...] = ()) -> NamespaceDirectory | None:
    evidence = ask_namespaces(Root(str(node)), named, at_rest=True)
    assert evidence.unknown is None
    return evidence.directories[path]


@pytest.fixture
def mounted(node: Path, namespaces: Namespaces) -> Iterator[Path]:
    """A mounted namespace, `cni-mounted`, of that node."""
    yield namespaces.mount(node / "run/netns/cni-mounted")
    namespaces.undo()


class TestMounted:
    """Root only: these mount."""

    @pytest.mark.usefixtures("mounted")
    def test_a_mounted_namespace_is_told_from_a_plain_file(self, node: Path):
        (node / "run/netns/cni-plain").touch()
        assert look(node) == NamespaceDirectory(names=frozenset({"cni-mounted", "cni-plain"}), mounted=frozenset({"cni-mounted"}))

    def test_one_that_is_unmounted_is_a_plain_file(self, node: Path, mounted: Path, namespaces: Namespaces):
        namespaces.unmount(mounted)
        assert look(node) == NamespaceDirectory(names=frozenset({"cni-mounted"}))

    @pytest.mark.usefixtures("mounted")
    def test_a_link_to_one_is_one(self, node: Path):
        (node / "run/netns/cni-link").symlink_to("cni-mounted")
        found = look(node)
        assert found is not None
        assert found.mounted == {"cni-mounted", "cni-link"}

    @pytest.mark.usefixtures("mounted")
    def test_a_directory_that_is_a_link_is_followed_inside_of_the_root(self, node: Path):
        (node / "var").mkdir()
        (node / "var/netns").symlink_to("/run/netns")
        found = look(node, "/var/netns", named=("/var/netns/cni-mounted",))
        assert found is not None
        assert found.mounted == {"cni-mounted"}

    def test_another_file_system_mounted_there_is_no_namespace(self, node: Path, namespaces: Namespaces):
        mounted = namespaces.mount(node / "run/netns/cni-1")
        # /proc itself is a directory of another file system: a name below it is no namespace either.
        (node / "run/netns/proc").symlink_to("/proc/self/status")
        found = look(node)
        assert found is not None
        assert found.mounted == {mounted.name}


def test_plain_files_links_and_directories_are_names_alone(node: Path):
    directory = node / "run/netns"
    (directory / "cni-plain").touch()
    (directory / "cni-dir").mkdir()
    (directory / "cni-dangling").symlink_to("nowhere")
    os.mkfifo(directory / "cni-pipe")
    assert look(node) == NamespaceDirectory(names=frozenset({"cni-plain", "cni-dir", "cni-dangling", "cni-pipe"}))


def test_an_empty_directory_is_a_directory(node: Path):
    assert look(node) == NamespaceDirectory()


@pytest.mark.parametrize("kind", ["missing", "file", "dangling link", "below a file"])
def test_what_is_no_directory_is_missing(node: Path, kind: str):
    directory = node / "run/netns"
    directory.rmdir()
    if kind == "file":
        directory.touch()
    elif kind == "dangling link":
        directory.symlink_to("/nowhere")
    elif kind == "below a file":
        (node / "run").rmdir()
        (node / "run").touch()
    assert look(node) is None


def test_every_directory_that_results_name_is_looked_at(node: Path):
    (node / "var/netns").mkdir(parents=True)
    (node / "var/netns/other").touch()
    evidence = ask_namespaces(
        Root(str(node)), ["/var/netns/other", "/var/netns/gone", "/run/netns/x", "/nowhere/x"], at_rest=True
    )
    assert evidence.directories == dict.fromkeys(STATE_DIRS) | {
        NETNS_DIR: NamespaceDirectory(),
        "/var/netns": NamespaceDirectory(names=frozenset({"other"})),
        "/nowhere": None,
    }


def test_the_namespace_of_a_process_is_not_looked_for(node: Path):
    evidence = ask_namespaces(Root(str(node)), ["/proc/42/ns/net", "/proc/self/task/42/ns/net"], at_rest=True)
    assert evidence.directories.keys() == {NETNS_DIR, *STATE_DIRS}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/run/ne\0tns/x", id="NUL"),
        pytest.param("/run/\ud800/x", id="lone surrogate"),
        pytest.param("/run/\udcff/x", id="not UTF-8"),
        pytest.param("/" + "x" * 5000 + "/x", id="name too long"),
        pytest.param("/x" * 5000 + "/x", id="path too long"),
        pytest.param("netns", id="relative"),
        pytest.param("", id="empty"),
        pytest.param("/", id="root"),
        pytest.param("../../x/y", id="upwards"),
        pytest.param("//x//y", id="slashes"),
    ],
)
def test_a_path_that_cannot_be_is_never_an_error(node: Path, path: str):
    evidence = ask_namespaces(Root(str(node)), [path], at_rest=True)
    assert evidence.unknown is None or "\n" not in evidence.unknown
    assert evidence.unknown or evidence.directories[NETNS_DIR] is not None


def test_a_circle_of_links_is_unknown_or_missing(node: Path):
    (node / "run/netns").rmdir()
    (node / "run/netns").symlink_to("netns")
    evidence = ask_namespaces(Root(str(node)), [], at_rest=True)
    assert evidence.unknown or evidence.directories[NETNS_DIR] is None


def test_a_link_that_leads_to_itself_is_no_namespace_or_unknown(node: Path):
    (node / "run/netns/cni-loop").symlink_to("cni-loop")
    evidence = ask_namespaces(Root(str(node)), [], at_rest=True)
    found = evidence.directories.get(NETNS_DIR)
    assert evidence.unknown or (found is not None and found.mounted == set())


def test_a_tree_that_is_not_at_rest_is_asked_whether_its_mounts_follow(tmp_path: Path):
    (tmp_path / "run/netns").mkdir(parents=True)
    directory = ask_namespaces(Root(str(tmp_path)), []).directories["/run/netns"]
    assert directory is not None
    assert directory.follows_mounts is follows_mounts(str(tmp_path / "run/netns"))
