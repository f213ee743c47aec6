"""What mountinfo (proc(5)) says of a directory: whether later mounts show below it, whether it has mounts in it."""

import subprocess

import pytest

from tests.support.skips import require_program
from workers.mounts import follows_mounts, has_mounts

LINES = {
    "host": "21 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n30 21 0:5 / /run rw shared:2 - tmpfs tmpfs rw\n",
    "slave": "21 1 8:1 / / rw - overlay o rw\n31 21 0:5 /netns /run/netns rw master:2 - tmpfs tmpfs rw\n",
    "private": "21 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n31 21 0:5 /netns /run/netns rw - tmpfs tmpfs rw\n",
    "covered": "31 21 0:5 / /run rw shared:1 - tmpfs tmpfs rw\n32 21 0:6 / /run rw - tmpfs tmpfs rw\n",
    "neighbour": "21 1 8:1 / / rw - ext4 /dev/sda rw\n31 21 0:5 / /run/net rw shared:2 - tmpfs tmpfs rw\n",
    "a space": "21 1 8:1 / / rw - ext4 d rw\n31 21 0:5 / /a\\040b rw shared:2 - tmpfs tmpfs rw\n",
}


@pytest.mark.parametrize(
    ("lines", "directory", "expected"),
    [
        ("host", "/run/netns", True),
        ("slave", "/run/netns", True),
        ("private", "/run/netns", False),
        ("covered", "/run/netns", False),
        ("neighbour", "/run/netns", False),
        ("a space", "/a b/netns", True),
    ],
)
def test_only_a_shared_or_slave_mount_shows_what_is_mounted_later(tmp_path, lines, directory, expected):
    file = tmp_path / "mountinfo"
    file.write_text(LINES[lines])
    assert follows_mounts(directory, str(file)) is expected


ROOT = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("", False, id="no mount below"),
        pytest.param("31 21 8:1 /d /node rw - ext4 d rw\n", True, id="the tree itself is a mount"),
        pytest.param("31 21 0:4 net:[1] /node/run/netns/cni-1 rw - nsfs nsfs rw\n", False, id="a namespace"),
        pytest.param("31 21 8:1 /d /nodes/run rw - ext4 d rw\n", False, id="a neighbour"),
        pytest.param("31 21 0:5 / /node/run rw - tmpfs tmpfs rw\n", True, id="a part of another file system"),
        pytest.param("31 21 8:1 /lib /node/var/lib/cni rw - ext4 d rw\n", True, id="a directory bound into it"),
    ],
)
def test_a_tree_with_other_mounts_than_namespaces_below_it_has_mounts(tmp_path, line, expected):
    file = tmp_path / "mountinfo"
    file.write_text(ROOT + line)
    assert has_mounts("/node", str(file)) is expected


@pytest.mark.parametrize("point", ["/", "/proc"])
def test_this_machines_own_is_read_as_findmnt_reads_it(point):
    findmnt = require_program("findmnt", "util-linux")
    shown = subprocess.run([findmnt, "-n", "-o", "PROPAGATION", point], capture_output=True, text=True, timeout=60, check=True)
    # Where mounts lie on each other, the last one counts.
    propagation = shown.stdout.split()[-1].split(",")
    assert follows_mounts(point) is bool({"shared", "slave"} & set(propagation))
