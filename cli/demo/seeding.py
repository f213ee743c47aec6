"""
Puts the demo's nodes into the volumes of docker-compose.yml: `python -m cli.demo.seeding BELOW COUNT`.

Each volume is a directory `node-1`, `node-2` and so on, and gets its node once: what a sweep removed there does not come back.
"""

import shutil
from pathlib import Path

import click

from cli.demo.nodes import make_node

_UNFINISHED = ".seeding"
"""There while a node is being made, so that one whose making was interrupted is made anew."""


def seed(number: int, below: Path) -> bool:
    """Make the node of this number, unless its directory has something in it; whether it was made.

    Raises:
        OSError: the directory is not there, or cannot be written.
    """
    directory = below / f"node-{number}"
    unfinished = directory / _UNFINISHED
    if not unfinished.exists() and any(directory.iterdir()):
        return False
    unfinished.touch()
    shutil.rmtree(directory / "root", ignore_errors=True)
    make_node(number, below)
    unfinished.unlink()
    return True


@click.command()
@click.argument("below", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("count", type=click.IntRange(min=1))
def main(*, below: Path, count: int) -> None:
    """Seed COUNT nodes BELOW a directory."""
    for number in range(1, count + 1):
        made = seed(number, below)
        click.echo(f"node-{number}: {'seeded' if made else 'has files already, left alone'}")


if __name__ == "__main__":
    main()
