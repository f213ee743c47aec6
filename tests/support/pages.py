"""
The pages of the documentation, and the commands that stand on them to be typed.

A block of commands is one whose fence says `sh`; whatever else a block holds, its fence says so too. In prose and in tables
a command is a code span of several words that begins with the name of a program.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.program import REPOSITORY

SHELL = "sh"
OTHERS = frozenset({"json", "text", "yaml"})
"""What a fence says of a block that holds no commands."""

PROGRAMS = frozenset(
    {
        "api-cni-cleanup",
        "apt",
        "cd",
        "celery",
        "cni-cleanup",
        "crictl",
        "curl",
        "dmesg",
        "docker",
        "docker-compose",
        "grep",
        "journalctl",
        "k3s",
        "kind",
        "kubectl",
        "kustomize",
        "ls",
        "make",
        "minikube",
        "mkdir",
        "oc",
        "openssl",
        "pip",
        "podman",
        "printf",
        "prometheus",
        "promtool",
        "ps",
        "redis-cli",
        "rm",
        "sed",
        "systemctl",
        "tar",
        "test",
        "touch",
    }
)
"""What a command of the pages begins with."""

_ALONE = frozenset({"make"})
"""A command as it stands, where the name of another program alone only names it."""

_VARIABLE = re.compile(r"\w+=(\S*|\"\$\(.*\)\")$|\w+\(\) ")
"""One alone on its line, or a function."""
_IN_A_POD = re.compile(r"kubectl .*\bexec\b.*? -- (?P<inner>.+)", re.DOTALL)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, as somebody would type it."""

    #: The page's path in the repository, and the line on which the command, or the paragraph with it, begins.
    page: str
    line: int
    #: Without the comment at its end.
    text: str
    comment: str = ""
    #: What the page has said before it that counts for it too: each `export` above it; of its block also each `cd`,
    #: variable and function.
    before: tuple[str, ...] = ()
    #: In a block, not in a sentence or a table.
    is_fenced: bool = False

    @property
    def place(self) -> str:
        """Where it is found."""
        return f"{self.page}:{self.line}"

    @property
    def status(self) -> int:
        """The exit status that the page promises."""
        promised = re.match(r"exit (\d+)\b", self.comment)
        return int(promised[1]) if promised else 0

    @property
    def program(self) -> str:
        """Its first word that sets no variable; empty where it does nothing else."""
        return "" if _VARIABLE.match(self.text) else next((word for word in self.text.split() if not re.match(r"\w+=", word)), "")


def pages() -> list[str]:
    """The paths of all pages: what tells how to use the program, not what has changed in it."""
    found = [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *(path for directory in ("bench", "deploy", "docs") for path in (REPOSITORY / directory).rglob("*.md")),
    ]
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


@cache
def commands_of(page: str) -> tuple[Command, ...]:
    """The commands of a page, in its order, repetitions among them; `kubectl exec` is followed by what it runs in the pod.

    Raises:
        ValueError: a block ends in the middle of a command.
    """
    found: list[Command] = []
    exports: tuple[str, ...] = ()
    for token in _tokens(page):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence" and token.info == SHELL:
            block = [replace(command, before=exports + command.before) for command in _commands_in(token.content, page, line + 1)]
            exports += tuple(command.text for command in block if command.text.startswith("export "))
            found += block
        elif token.type == "inline":
            spans = (span.content for span in token.children or () if span.type == "code_inline")
            found += [Command(page=page, line=line, text=text, before=exports) for text in spans if is_command(text)]
    return tuple(one for command in found for one in (command, *_in_the_pod(command)))


def is_command(span: str) -> bool:
    """Whether a code span is one."""
    words = [word for word in span.split() if not re.match(r"\w+=", word)]
    if len(words) < 2:
        return bool(words) and words[0] in _ALONE
    return words[0] in PROGRAMS or re.fullmatch(r"[\w.-]+(/[\w.-]+)+", words[0]) is not None


def blocks(page: str) -> list[tuple[int, str]]:
    """The line of each block of a page, and what its fence says of it; an indented one says nothing."""
    kinds = ("fence", "code_block")
    return [(token.map[0] + 1 if token.map else 0, token.info) for token in _tokens(page) if token.type in kinds]


def spans(page: str) -> set[str]:
    """Every code span of a page."""
    children = (child for token in _tokens(page) for child in token.children or ())
    return {child.content for child in children if child.type == "code_inline"}


def links(page: str) -> set[str]:
    """Where links and pictures of a page lead, those to other sites left out."""
    children = [child for token in _tokens(page) for child in token.children or ()]
    targets = {str(child.attrs[name]) for child in children for name in ("href", "src") if name in child.attrs}
    return {target for target in targets if "://" not in target}


def anchors(page: str) -> set[str]:
    """The names of a page's headings in links, as GitHub makes them."""
    tokens = _tokens(page)
    texts = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in texts}


@cache
def _tokens(page: str) -> Sequence[Token]:
    return _MARKDOWN.parse((REPOSITORY / page).read_text())


def _commands_in(block: str, page: str, line: int) -> Iterator[Command]:
    """The shortest runs of lines that a shell takes as whole."""
    settings: tuple[str, ...] = ()
    lines: list[str] = []
    for number, text in enumerate(block.splitlines(), line):
        if not lines and (not text.strip() or text.startswith("#")):
            continue
        lines.append(text)
        if not _is_whole("\n".join(lines)):
            continue
        last, comment = _without_comment(lines[-1])
        command = "\n".join([*lines[:-1], last])
        yield Command(page=page, line=number - len(lines) + 1, text=command, comment=comment, before=settings, is_fenced=True)
        if command.startswith(("cd ", "export ")) or _VARIABLE.match(command):
            settings += (command,)
        lines = []
    if lines:
        raise ValueError(f"{page}: a block ends within {lines[0]!r}")


def _without_comment(line: str) -> tuple[str, str]:
    text, _, comment = line.partition(" # ")
    return (text.rstrip(), comment) if _is_whole(text) else (line, "")


@cache
def _is_whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    # Of a here-document that does not end it only warns.
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    return done.returncode == 0 and not done.stderr


def _in_the_pod(command: Command) -> Iterator[Command]:
    found = _IN_A_POD.fullmatch(command.text)
    if found is not None:
        yield replace(command, text=found["inner"], before=(), is_fenced=False)
