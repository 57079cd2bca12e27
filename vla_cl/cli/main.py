"""The command `vla-cl`: which commands there are, and how every failure ends in one line.

Exit status: 0 done; 1 `doctor`, `data validate` or `tasks check` found something broken, or runs of a `grid` failed;
2 a mistake, told in one line on stderr; 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

import typer

from vla_cl import __version__
from vla_cl.cli import (
    assets,
    collect,
    compare,
    data,
    doctor,
    evaluate,
    grid,
    listings,
    perturbations,
    probe,
    report,
    run,
    serve,
    tasks,
    watch,
)
from vla_cl.cli.interrupts import interrupts_kept
from vla_cl.errors import VlaClError

INTERRUPTED = 130
MISTAKE = 2

app = typer.Typer(
    name="vla-cl",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]vla-cl run --preset quickstart strategy=sequential,replay[/bold], "
    "or [bold]vla-cl doctor[/bold] when something does not work.",
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Experiments": (
        run.run,
        grid.grid,
        collect.collect,
        evaluate.evaluate,
        watch.watch,
        probe.probe,
        serve.serve,
        report.report,
        compare.compare,
    ),
    "What there is": (listings.suites, listings.policies, listings.strategies, perturbations.perturbations),
    "This machine": (doctor.doctor,),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(data.app, name="data", rich_help_panel="Experiments")
app.add_typer(tasks.app, name="tasks", rich_help_panel="What there is")
app.add_typer(assets.app, name="assets", rich_help_panel="This machine")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vla_cl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and debugging messages."),
    quiet: bool = typer.Option(False, "--quiet", help="Show warnings only, no progress."),
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Teach a robot policy one task after another, and measure what it forgets.

    A suite is a sequence of simulated manipulation tasks. For each task, demonstrations are collected from a scripted
    expert, the policy is trained under a continual-learning strategy, and then rolled out on every task so far.
    """
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vla_cl").setLevel(level)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. Only `--debug` ever shows a traceback of a known mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if debug:  # accepted anywhere, also after the command
        words = ["--debug", *(word for word in words if word != "--debug")]
    try:
        with interrupts_kept():
            status = app(args=words, prog_name="vla-cl", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:
            return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except typer.Abort:
        return _interrupted()
    except VlaClError as error:
        if debug:
            raise
        return _mistake(str(error))
    except typer.TyperException as error:
        message = error.format_message()
        return _mistake(message) if message else MISTAKE
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our pipe has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if debug or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        place = f": {error.filename}" if error.filename else ""
        return _mistake(
            f"{os.strerror(error.errno)}{place}; make room or choose another folder, and run the command again"
        )
    return status if isinstance(status, int) else 0


def _interrupted() -> int:
    sys.stderr.write("interrupted; run the same command again to go on\n")
    return INTERRUPTED


def _mistake(message: str) -> int:
    line = " ".join(message.split()).rstrip(".")
    sys.stderr.write(f"error: {line}\n")
    return MISTAKE


if __name__ == "__main__":
    sys.exit(main())
