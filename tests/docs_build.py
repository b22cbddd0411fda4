"""Builds the generated pages of docs/, and plays the terminal sessions that README and docs show.

`python tests/docs_build.py` writes docs/reference/cli.md and errors.md anew. `python tests/docs_build.py sessions`
also plays every ```console block and writes down what came out where a page says something else. A line `?` below a
command asks for its output; a line `…` stands for any lines.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT, make_home

from opsctl import ids
from opsctl.cli.app import COMMANDS, build
from opsctl.errors import CODES, EXIT

REFERENCE = ROOT / "docs" / "reference"
KINDS = {
    "invalid": "The input is malformed. Mend it and try again.",
    "refused": "The command was understood and is not allowed.",
    "conflict": "The state moved meanwhile, or it forbids this.",
    "integrity": "The history or an object cannot be trusted. Nothing approved is served until it is resolved.",
    "environment": "The machine or the repository is not usable as it is.",
    "provider": "A model provider failed.",
    "not_found": "What was named is not there.",
    "internal": "A bug. Only a correlation id is shown.",
}

# -- generated pages --------------------------------------------------------------------------------------------------


def help_text(*arguments: str, columns: int = 100) -> str:
    """What `opsctl … --help` prints, so wide and without colours."""
    fixed = {"COLUMNS": str(columns), "LINES": "50", "NO_COLOR": "1", "TERM": "dumb"}
    before = dict(os.environ)
    os.environ.update(fixed)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            build()([*arguments, "--help"], prog_name="opsctl", standalone_mode=False)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return out.getvalue().rstrip("\n")


def commands() -> Iterator[tuple[str, ...]]:
    """Every command, and after a group its sub-commands."""
    for name in COMMANDS:
        yield (name,)
        _, _, listed = help_text(name).partition("\nCommands:\n")
        for line in listed.split("\n\n")[0].splitlines():
            if re.match(r"  \S", line):
                yield name, line.split()[0]


def cli_page() -> str:
    """docs/reference/cli.md."""
    parts = [
        "# The command line",
        "This page is generated from the program's own help: `python tests/docs_build.py` writes it.",
        "Data goes to standard output and talk to standard error. On a terminal, lists are tables; elsewhere they are "
        "lines with tabs. Commands with `--json` print the objects of [json.md](json.md). The exit status is listed in "
        "[errors.md](errors.md).",
        "An id may be given as any unique beginning or end of its 26 letters, in either case, with or without `d_` or "
        "`a_`.",
        "## Environment",
        "| variable | what it does |\n| --- | --- |\n"
        "| `OPSCTL_SIGNING_KEY` | the key file to sign with, before git's `user.signingkey` |\n"
        "| `OPSCTL_SIGN_TIMEOUT` | seconds that a signature may take; 90 at a terminal, else 5 |\n"
        "| `OPSCTL_LOCK_WAIT` | seconds to wait for another process; 10 |\n"
        "| `OPSCTL_TRUST_ROOT` | a root commit to trust in clones that have no pin; a pin always wins |\n"
        "| `OPSCTL_DEBUG` | `1` shows the traceback of a bug |\n"
        "| `NO_COLOR` | no colours |\n"
        "| `XDG_CONFIG_HOME`, `XDG_STATE_HOME` | where the trust pins and the memory of verification are kept |",
        "## opsctl",
        f"```text\n{help_text()}\n```",
    ]
    for path in commands():
        parts += [f"{'##' if len(path) == 1 else '###'} opsctl {' '.join(path)}", f"```text\n{help_text(*path)}\n```"]
    return "\n\n".join(parts) + "\n"


def errors_page() -> str:
    """docs/reference/errors.md."""
    parts = [
        "# Errors",
        "This page is generated from `opsctl/errors.py`: `python tests/docs_build.py` writes it.",
        "An error is at most three lines on standard error: `error:` says what, `cause:` gives the underlying fault "
        "where there is one, `hint:` names the next command. With `--json` the same comes as one object, "
        '`{"error": {"code", "message", "hint", "cause", …}}`. The code is stable and belongs to one kind. The kind '
        "decides the exit status.",
        "| exit status | kind | meaning |\n| --- | --- | --- |\n| 0 | – | done, or nothing was left to do |\n"
        + "\n".join(f"| {status} | {kind} | {KINDS[kind]} |" for kind, status in EXIT.items())
        + "\n| 130 | – | Interrupted with Ctrl-C. |\n| 141 | – | The reader of the output went away. |",
    ]
    for kind, status in EXIT.items():
        rows = [f"| `{code}` | {meaning} |" for code, (of, meaning) in CODES.items() if of == kind]
        if rows:
            parts += [f"## {kind} (exit status {status})", "| code | meaning |\n| --- | --- |\n" + "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def generated() -> dict[Path, str]:
    """Every generated page with its text."""
    return {REFERENCE / "cli.md": cli_page(), REFERENCE / "errors.md": errors_page()}


# -- sessions ---------------------------------------------------------------------------------------------------------

_PROMPT = re.compile(r"(?:(alice|bob))?\$ (.*)")
_VOLATILE = re.compile(
    r"(?<![A-Za-z0-9])[0-7][0-9A-HJKMNP-TV-Z]{25}\b|SHA256:[A-Za-z0-9+/]{43}|AAAA[A-Za-z0-9+/=]{40,}|\b[0-9a-f]{7,64}\b"
)
_PART = re.compile(r"(?<![A-Za-z0-9])[0-9A-HJKMNP-TV-Z]{4,25}\b")
_TIMES = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\b\d{4}/\d\d/\d\d\b"), "<date>"),
    (re.compile(r"\b\d+ (?:s|min|h)\b"), "<age>"),
    (re.compile(r"─+"), "─"),
    (re.compile(r"[ \t]+"), " "),
)
_PROGRESS = re.compile(r"\r[^\r\n]*\x1b\[K")
"""A line that was wiped again."""
_SAYS_NO = re.compile(r"^(error: |BAD |problem |fatal: |Could not verify|.*closed$)", re.MULTILINE)


@dataclass
class Step:
    """One command of a page: who types it, and what the page says comes out. `line` is where its output begins."""

    who: str
    command: str
    shown: list[str] = field(default_factory=list)
    line: int = 0
    hidden: bool = False


def steps(text: str) -> list[Step]:
    """The commands of a page in order, those of `<!-- set-up` comments too; blocks marked `not run` are left out.

    A block after `<!-- file: PATH -->` is written to that path.
    """
    found: list[Step] = []
    state, before = "", ""
    for number, line in enumerate(text.splitlines()):
        if state == "console":
            if line == "```":
                state = ""
            elif match := _PROMPT.fullmatch(line):
                found.append(Step(match[1] or "alice", match[2], line=number + 1))
            elif (line == ">" or line.startswith("> ")) and not found[-1].shown:
                found[-1].command += "\n" + line[2:]
                found[-1].line = number + 1
            else:
                found[-1].shown.append(line)
        elif state == "file":
            if line == "```":
                state = ""
                found[-1].command += "\nEND-OF-FILE"
            else:
                found[-1].command += "\n" + line
        elif state == "set-up":
            if line == "-->":
                state = ""
            else:
                match = _PROMPT.fullmatch(line)
                found.append(Step(match[1] or "alice" if match else "alice", match[2] if match else line, hidden=True))
        elif line.startswith("```") and before.startswith("<!-- file: ") and state != "skip":
            state = "file"
            found.append(Step("alice", f"cat > {before.split()[2]} <<'END-OF-FILE'", hidden=True))
        elif line == "```console":
            state = "skip" if before.startswith("<!-- not run:") else "console"
        elif line.startswith("```"):
            state = "" if state == "skip" else "skip"
        elif line == "<!-- set-up":
            state = "set-up"
        before = line or before
    return found


class Stage:
    """A sealed place with one or two people; commands run on a terminal of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("opsctl", "git-ops"):
            shim = folder / "bin" / name
            shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m opsctl "$@"\n')
            shim.chmod(0o755)
        self._seen: dict[str, str] = {}
        self._environ: dict[str, dict[str, str]] = {}
        self._person("alice")
        self.run("alice", "git init -q repo && cd repo && printf 'def upload(path):\\n    send(path)\\n' > uploader.py")
        self.run("alice", "git add . && git commit -q -m 'the uploader'")

    def _person(self, name: str) -> None:
        made = make_home(self.folder / name, name.capitalize(), f"{name}@example.com")
        made.environ["XDG_CONFIG_HOME"] = str(made.path / ".config")  # where a reader has it
        fixed = {"COLUMNS": "100", "LINES": "50", "NO_COLOR": "1", "TERM": "dumb", "GIT_PAGER": "cat", "TZ": "UTC"}
        path = f"{self.folder / 'bin'}:{made.environ['PATH']}"
        self._environ[name] = {**made.environ, **fixed, "PATH": path}
        (made.path / ".state").write_text(f"cd {shlex.quote(str(made.path))}\n")

    def run(self, who: str, command: str, *, answers: int = 0) -> tuple[int, str]:
        """Run a command line as somebody types it; folder and exported variables last until the next one."""
        if who not in self._environ:
            self._person(who)
        state = shlex.quote(str(self.folder / who / ".state"))
        keep = "{ export -p | grep -v __rc; printf 'cd %q\\n' \"$PWD\"; }"
        script = f"set -a; . {state}\n{command}\n__rc=$?; {keep} > {state}; exit $__rc"
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", script],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=self._environ[who],
            start_new_session=True,
        )
        os.close(theirs)
        output = _PROGRESS.sub("", _listen(ours, process, answers).replace("\r\n", "\n"))
        return process.wait(), output.replace(str(self.folder), "/home").rstrip("\n")

    # -- the page's ids and ours ----------------------------------------------------------------------------------

    def ours(self, text: str) -> str:
        """A command of a page with the ids and paths of this run."""
        text = text.replace("/home/", f"{self.folder}/")
        text = re.sub(r"\d{4}/\d\d/\d\d/([0-7][0-9A-HJKMNP-TV-Z]{25})", self._path, text)
        text = _VOLATILE.sub(lambda match: self._known(match[0]) or match[0], text)
        return _PART.sub(self._part, text)

    def theirs(self, text: str) -> str:
        """Output of this run with the ids that the page has used so far."""
        back = {ours: theirs for theirs, ours in self._seen.items()}

        def old(match: re.Match[str]) -> str:
            token = match[0]
            return next((page[: len(token)] for ours, page in back.items() if ours.startswith(token)), token)

        def old_part(match: re.Match[str]) -> str:
            part = match[0]
            return next(
                (page[-len(part) :] for ours, page in back.items() if len(ours) == 26 and ours.endswith(part)), part
            )

        return _PART.sub(old_part, _VOLATILE.sub(old, text))

    def _path(self, match: re.Match[str]) -> str:
        ulid = self._known(match[1]) or match[1]
        return ids.path_of(ulid).removeprefix("ops/").removesuffix(".md")

    def _known(self, token: str) -> str | None:
        for page, ours in self._seen.items():
            if page.startswith(token):
                return ours[: len(token)]
        return None

    def _part(self, match: re.Match[str]) -> str:
        part = match[0]
        for page, ours in self._seen.items():
            if len(page) == 26 and page.endswith(part):
                return ours[-len(part) :]
        return part

    def matches(self, shown: list[str], output: list[str]) -> bool:
        """True if the output is what the page shows; ids seen for the first time are learned."""
        if not shown:
            return not output
        if shown[0] == "…":
            return any(self.matches(shown[1:], output[start:]) for start in range(len(output) + 1))
        before = dict(self._seen)
        if output and self._line_matches(shown[0], output[0]) and self.matches(shown[1:], output[1:]):
            return True
        self._seen = before
        return False

    def learn(self, shown: list[str], output: list[str]) -> None:
        """Take what ids can be taken from an output that differs."""
        for page, real in zip(shown, output, strict=False):
            self._line_matches(page, real)

    def _line_matches(self, shown: str, output: str) -> bool:
        page, real = _VOLATILE.findall(shown), _VOLATILE.findall(output)
        if len(page) != len(real) or _plain(self._short(shown)) != _plain(output):
            return False
        for token, actual in zip(page, real, strict=True):
            if self._known(token) not in (None, actual):
                return False
            if self._known(token) is None:
                self._seen[token] = actual
        return True

    def _short(self, text: str) -> str:
        """A shown line with the short ids of this run."""
        return _PART.sub(self._part, text)


def _listen(terminal: int, process: subprocess.Popen[bytes], answers: int) -> str:
    """All that a process prints on its terminal; says yes to so many questions."""
    output, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the last one to hold the terminal has left
            break
        if not data:
            break
        output += data
        if answers and output.endswith(b"[y/N] "):
            answers -= 1
            os.write(terminal, b"y\n")
    else:
        process.kill()
    os.close(terminal)
    return output.decode("utf-8", "replace")


def _plain(line: str) -> str:
    line = _VOLATILE.sub("<id>", line)
    for form, word in _TIMES:
        line = form.sub(word, line)
    return line.strip()


@dataclass(frozen=True)
class Difference:
    """A command whose output is not what the page shows."""

    step: Step
    status: int
    output: list[str]

    def __str__(self) -> str:
        shown, got = "\n".join(self.step.shown), "\n".join(self.output)
        return f"$ {self.step.command}\n--- the page shows\n{shown}\n--- exit {self.status}, it printed\n{got}\n"


def play(text: str, folder: Path) -> Iterator[Difference]:
    """Play a page's sessions in an empty folder."""
    stage: Stage | None = None
    for step in steps(text):
        stage = stage or Stage(folder)
        answers = sum(line.endswith("[y/N] y") for line in step.shown)
        status, output = stage.run(step.who, stage.ours(step.command), answers=answers)
        failed = status != 0 and not (step.shown and _SAYS_NO.search(output) and not step.hidden)
        lines = output.splitlines()
        if failed or (step.shown and not stage.matches(step.shown, lines)):
            stage.learn(step.shown, lines)
            said = stage.theirs(output).splitlines()
            yield Difference(step, status, said)
            stage.learn(said, lines)


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def record(path: Path) -> None:
    """Write down what the commands of a page print, where the page says something else."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    with tempfile.TemporaryDirectory() as folder:
        differences = list(play(text, Path(folder)))
    for one in reversed(differences):
        print(f"{path.relative_to(ROOT)}: {one}")
        if not one.step.hidden:
            lines[one.step.line : one.step.line + len(one.step.shown)] = one.output
    if differences:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Write the generated pages; with `sessions [PAGE…]` play pages and write down what differs."""
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if arguments[:1] == ["sessions"]:
        for path in [Path(name).resolve() for name in arguments[1:]] or pages():
            record(path)


if __name__ == "__main__":
    main(sys.argv[1:])
