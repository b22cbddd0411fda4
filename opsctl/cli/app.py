"""The table of commands, and the one place where an error becomes a message and an exit status."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import typing
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import _click as click

from opsctl import __version__, text
from opsctl.cli.session import Session
from opsctl.errors import OpsError

COMMANDS: dict[str, str] = {
    "init": "init",
    "trust": "trust",
    "sync": "sync",
    "draft": "draft",
    "generate": "generate",
    "list": "list",
    "show": "show",
    "diff": "diff",
    "edit": "edit",
    "review": "review",
    "approve": "approve",
    "return": "close",
    "reject": "close",
    "revoke": "close",
    "run": "run",
    "runs": "runs",
    "runner": "runner",
    "provider": "provider",
    "verify": "verify",
    "log": "log",
    "status": "status",
    "plan": "plan",
    "policy": "policy",
    "prune": "prune",
    "doctor": "doctor",
    "config": "config",
    "demo": "demo",
}
"""Every command and the module of this package that holds it."""

Registrar = Callable[[typer.Typer], None]
_HELP = (
    "A human approval gate for agent work, kept in git: drafts, signed approvals, verification. "
    "`opsctl help COMMAND` explains one."
)


class Group(typer.core.TyperGroup):
    """Lists commands in the order of the table, which follows the work."""

    def list_commands(self, ctx: click.core.Context) -> list[str]:
        """The names in the order in which they were registered."""
        del ctx
        return sorted(self.commands, key=lambda name: list(COMMANDS).index(name) if name in COMMANDS else 0)


def command(
    app: typer.Typer, name: str, *, example: str, json: bool = False
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Register a function whose first parameter is the `Session`; `-C` and, where asked, `--json` are added."""

    def register(function: Callable[..., int | None]) -> Callable[..., int | None]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        def call(ctx: typer.Context, directory: Path | None = None, as_json: bool = False, **values: Any) -> int | None:
            session = Session(_place(ctx, directory), as_json=as_json)
            try:
                return function(session, **values)
            finally:
                session.close()

        rows: list[tuple[str, Any, Any]] = [("ctx", typer.Context, inspect.Parameter.empty)]
        rows += [(one.name, hints[one.name], one.default) for one in own]
        if json:
            rows.append(("as_json", Annotated[bool, typer.Option("--json", help="Print JSON.")], False))
        place = typer.Option("-C", metavar="DIR", help="Work as if started in DIR.", show_default=False)
        rows.append(("directory", Annotated[Path | None, place], None))
        kind = inspect.Parameter.KEYWORD_ONLY
        signature = [inspect.Parameter(one, kind, annotation=hint, default=default) for one, hint, default in rows]
        call.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        call.__annotations__ = {one: hint for one, hint, _ in rows}
        call.__doc__ = function.__doc__
        app.command(name, epilog=f"Example: {example}")(call)
        return function

    return register


def _place(ctx: typer.Context, directory: Path | None) -> Path | None:
    """The `-C` of the command, below that of the program."""
    outer = ctx.find_root().params.get("directory")
    if outer and directory:
        return Path(outer) / directory
    return directory or (Path(outer) if outer else None)


def _main(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    directory: Annotated[Path | None, typer.Option("-C", metavar="DIR", help="Work as if started in DIR.")] = None,
) -> None:
    del directory  # read from the context by `_place`
    if version:
        print(f"opsctl {__version__}")
        raise typer.Exit


def build(names: Sequence[str] | None = None) -> typer.Typer:
    """The typer application, with all commands or only those that are needed."""
    app = typer.Typer(
        cls=Group,
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,  # locals hold keys and tokens
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Example: opsctl draft 'Add retry to the uploader' && opsctl review",
    )
    app.callback()(_main)
    done: set[str] = set()
    for name in names or COMMANDS:
        module = import_module(f"opsctl.cli.{COMMANDS[name]}_command")
        if COMMANDS[name] not in done:
            done.add(COMMANDS[name])
            module.register(app)
    return app


def _help(arguments: Sequence[str]) -> Sequence[str]:
    """`help COMMAND` as `COMMAND --help`."""
    return [*arguments[1:], "--help"] if arguments[:1] and arguments[0] == "help" else arguments


def _needed(arguments: Sequence[str]) -> list[str] | None:
    """The one command that is called, so that only its module is imported; None where all are needed."""
    if _completes():
        return None
    rest = list(arguments)
    while rest[:1] == ["-C"]:
        rest = rest[2:]
    return [rest[0]] if rest and rest[0] in COMMANDS else None


def _completes() -> bool:
    """True if a shell asks what a word could become."""
    return any(name.startswith("_") and name.endswith("_COMPLETE") for name in os.environ)


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit status; an error is told in at most three lines."""
    _settle_streams()
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        arguments = _help(arguments)
        status = build(_needed(arguments))(list(arguments), prog_name=_program(), standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.ClickException as error:
        return _usage(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except SystemExit as ended:  # typer leaves with 1 when the reader of a pipe is gone
        _give_up_stdout()
        return ended.code if isinstance(ended.code, int) and ended.code != 1 else 141
    except OpsError as error:
        return report(error, as_json=as_json)
    except MemoryError:
        return report(OpsError("no_memory", "not enough memory", hint="see `ulimit -v`"), as_json=as_json)
    except RecursionError:
        return report(OpsError("bad_input", "the input is nested too deeply"), as_json=as_json)
    except OSError as error:
        _give_up_stdout()
        return report(_from_os(error), as_json=as_json)
    except Exception as error:
        if _completes() and isinstance(error, (KeyError, ValueError)):
            return report(OpsError("usage", "the shell did not say what to complete"), as_json=as_json)
        return _bug(error, as_json=as_json)


def _settle_streams() -> None:
    """Closed streams become the null device, and LANG=C must not turn a name into a traceback."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115  it lives as long as we do
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_stdout() -> None:
    """Nobody reads stdout, or it takes no more: what is still buffered must not be tried again at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _program() -> str:
    return "git ops" if os.path.basename(sys.argv[0]) == "git-ops" else "opsctl"


def report(error: OpsError, *, as_json: bool) -> int:
    """Tell an error: what, why, what to do next."""
    if as_json:
        body = {"code": error.code, "message": error.message, "hint": error.hint, "cause": error.cause}
        import json

        plain = {key: value for key, value in error.detail.items() if isinstance(value, (str, int, list, dict))}
        print(json.dumps({"error": body | plain}), file=sys.stderr)
        return error.exit_code
    for label, value in (("error", error.message), ("cause", error.cause), ("hint", error.hint)):
        if value:
            line = f"{label}: {text.visible(value, keep_newlines=False)}"
            print(_painted(line, label), file=sys.stderr)
    return error.exit_code


def _painted(line: str, label: str) -> str:
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return line
    colour = {"error": "1;31", "cause": "2", "hint": "36"}[label]
    return f"\x1b[{colour}m{label}:\x1b[0m{line[len(label) + 1 :]}"


def _usage(error: click.exceptions.ClickException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if context and type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help())
        return 0
    path = context.command_path if context else "opsctl"
    message = error.format_message().split("\n")[0]
    return report(OpsError("usage", message or "the command is incomplete", hint=f"{path} --help"), as_json=as_json)


def _from_os(error: OSError) -> OpsError:
    what = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
    hint = "make room, mend the permissions, or see `opsctl doctor`"
    return OpsError("disk", f"the system refused{what}", cause=error.strerror or str(error), hint=hint)


def _bug(error: Exception, *, as_json: bool) -> int:
    """A bug shows a correlation id and where it is, never values: they may be secrets."""
    import secrets

    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
    if os.environ.get("OPSCTL_DEBUG") == "1":
        raise error
    message = f"a bug in opsctl ({type(error).__name__} at {place}, id {secrets.token_hex(4)})"
    hint = "please report it with this line; OPSCTL_DEBUG=1 shows all"
    return report(OpsError("internal", message, hint=hint), as_json=as_json)
