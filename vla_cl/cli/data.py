"""`vla-cl data`: look at demonstration files, check them, draw them again, split, merge and convert them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from vla_cl.cli.convert import convert
from vla_cl.cli.output import JsonOption, PluginOption, print_json, progress, results
from vla_cl.cli.summaries import print_summaries, print_summary, verdict
from vla_cl.cli.values import camera_names, changed_rendering, shares_of
from vla_cl.errors import ConfigurationError, DataFileError
from vla_cl.registry import load_plugins

WRONG = 1

app = typer.Typer(no_args_is_help=True, help="Inspect, validate, draw again, split, merge and convert demonstrations.")
app.command()(convert)

FilesArgument = typer.Argument(
    ..., metavar="FILE...", show_default=False, help="Demonstration files, or folders of them."
)
FileArgument = typer.Argument(..., metavar="FILE", show_default=False, help="A demonstration file.")
OutputArgument = typer.Argument(..., metavar="OUT", show_default=False, help="The file to write.")
OverwriteOption = typer.Option(False, "--overwrite", help="Replace what is there already.")


@app.command()
def inspect(
    files: list[Path] = FilesArgument,
    picture: Path | None = typer.Option(
        None, "--picture", metavar="FILE.png", help="Also draw first, middle and last frames, one row a camera."
    ),
    demonstrations: int = typer.Option(4, "--demonstrations", min=1, help="How many of each file are in the picture."),
    as_json: bool = JsonOption,
) -> None:
    """Say what demonstration files hold: task, steps, seeds, actions, cameras, bytes, splits, versions, checksum.

    One file is described at length, several in a table; [bold]--json[/bold] has everything in both cases.

    Example: [bold]vla-cl data inspect demonstrations --picture demonstrations.png[/bold]
    """
    from vla_cl.data import demonstration_files, demonstration_sheet, inspect_demonstrations
    from vla_cl.data.inspect import as_json as json_of

    summaries, refused = [], []
    paths = demonstration_files(files)
    for path in paths:
        try:
            summaries.append(inspect_demonstrations(path))
        except DataFileError as error:
            if len(paths) == 1:
                raise
            refused.append(error)
    if as_json:
        print_json([json_of(summary) for summary in summaries])
    elif len(paths) == 1:
        print_summary(summaries[0])
    elif summaries:
        print_summaries(summaries)
    if picture is not None and summaries:
        demonstration_sheet([summary.path for summary in summaries], picture, demonstrations=demonstrations)
        progress().print(f"wrote {picture}", soft_wrap=True)
    if refused:
        for each in refused[:-1]:
            progress().print(f"error: {each}", markup=False, soft_wrap=True)
        raise refused[-1]


@app.command()
def validate(
    files: list[Path] = FilesArgument,
    replay: str = typer.Option("3", "--replay", metavar="N|all", help="Demonstrations of each file to do again."),
    plugin: list[str] | None = PluginOption,
    as_json: bool = JsonOption,
) -> None:
    """Check files: structure, checksum, values; then do demonstrations again in the simulator, bit for bit.

    Prints one line a file, and ends with status 1 when something is wrong with any of them.

    Example: [bold]vla-cl data validate demonstrations --replay all[/bold]
    """
    load_plugins(plugin or [])
    replays = _replays(replay)
    from vla_cl.data import demonstration_files, validate_demonstrations

    found = []
    for path in demonstration_files(files):
        found.append(validate_demonstrations(path, replays=replays, plugins=tuple(plugin or [])))
        if not as_json:
            results().print(verdict(found[-1]), markup=False, soft_wrap=True)
    if as_json:
        print_json(
            [
                {
                    "path": str(each.path),
                    "sound": each.sound,
                    "problems": list(each.problems),
                    "notes": list(each.notes),
                    "demonstrations": each.demonstrations,
                    "replayed": each.replayed,
                }
                for each in found
            ]
        )
    if not all(each.sound for each in found):
        raise typer.Exit(WRONG)


@app.command()
def rerender(
    file: Path = FileArgument,
    output: Path = OutputArgument,
    cameras: str | None = typer.Option(
        None, "--cameras", metavar="NAME,NAME", help="Cameras; 'none' drops all images (default: as in FILE)."
    ),
    image_size: int | None = typer.Option(
        None, "--image-size", min=64, max=256, help="Height and width in pixels (default: as in FILE)."
    ),
    privileged: bool | None = typer.Option(
        None, "--privileged/--no-privileged", help="Store the simulator's own state (default: as in FILE)."
    ),
    rendering: list[str] | None = typer.Option(
        None, "--rendering", metavar="KEY=VALUE", help="How images are drawn: shadows=true, raycast; repeatable."
    ),
    processes: int | None = typer.Option(None, "--processes", min=1, help="Simulator processes (default: one a core)."),
    overwrite: bool = OverwriteOption,
    plugin: list[str] | None = PluginOption,
) -> None:
    """Draw stored demonstrations again, from other cameras or at another size; nothing is collected anew.

    Example: [bold]vla-cl data rerender push.hdf5 push-128.hdf5 --cameras corner2 --image-size 128[/bold]
    """
    load_plugins(plugin or [])
    from vla_cl.data import DemonstrationFile
    from vla_cl.data import rerender as draw_again
    from vla_cl.envs import ObservationOptions

    _refuse_existing([output], overwrite)
    with DemonstrationFile(file) as stored:
        observation, drawn = stored.observation_options, stored.rendering_options
    observation = ObservationOptions(
        cameras=observation.cameras if cameras is None else camera_names(cameras),
        image_size=observation.image_size if image_size is None else image_size,
        privileged=observation.privileged if privileged is None else privileged,
    )
    drawn = changed_rendering(drawn, rendering or [])
    draw_again(file, output, observation, drawn, processes=processes, plugins=tuple(plugin or []))
    _wrote(output)


@app.command()
def split(
    file: Path = FileArgument,
    into: str = typer.Option(
        ..., "--into", metavar="NAME=SHARE,...", show_default=False, help="Splits and their shares, 1 in all."
    ),
    seed: int = typer.Option(0, "--seed", help="Of the random choice."),
    output: Path | None = typer.Option(
        None, "--output", metavar="OUT", help="Write a copy here (with --files: a folder); FILE stays as it is."
    ),
    files: bool = typer.Option(False, "--files", help="Write FILE-NAME.hdf5 for each split instead of masks."),
    overwrite: bool = OverwriteOption,
) -> None:
    """Split demonstrations at random: into masks in the file, as robomimic reads them, or into separate files.

    The masks that were there are replaced. Without [bold]--output[/bold] the file itself is, at once and as a whole;
    its checksum changes with it.

    [bold]Examples[/bold]

    vla-cl data split push.hdf5 --into train=0.8,validation=0.2

    vla-cl data split push.hdf5 --into train=0.8,validation=0.2 --files
    """
    from vla_cl.data import split_files, split_masks, split_paths

    shares = shares_of(into)
    if files:
        _refuse_existing(split_paths(file, shares, output).values(), overwrite)
        for path in split_files(file, shares, output, seed=seed).values():
            _wrote(path)
        return
    if output is not None:
        _refuse_existing([output], overwrite)
    splits = split_masks(file, shares, seed=seed, output=output)
    _wrote(output or file, ", ".join(f"{name} {len(indices)}" for name, indices in splits.items()))
    if output is None:
        progress().print(
            "the file's checksum has changed: a run that replays from it can go on only with the old file",
            soft_wrap=True,
        )


@app.command()
def merge(
    files: list[Path] = FilesArgument,
    output: Path = OutputArgument,
    drop_duplicates: bool = typer.Option(
        False, "--drop-duplicates", help="Leave out demonstrations that are there already (same seed, same actions)."
    ),
    overwrite: bool = OverwriteOption,
) -> None:
    """Put the demonstrations of several files of one task into one file, numbered through.

    Task, environment, observation and rendering must agree. Splits are kept, and where everything came from is noted.

    Example: [bold]vla-cl data merge push-a.hdf5 push-b.hdf5 push.hdf5[/bold]
    """
    from vla_cl.data import demonstration_files, merge_demonstrations

    _refuse_existing([output], overwrite)
    merged = merge_demonstrations(demonstration_files(files), output, drop_duplicates=drop_duplicates)
    dropped = f", {merged.dropped} dropped" if merged.dropped else ""
    _wrote(merged.path, f"{merged.demonstrations} demonstrations{dropped}")


def _refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigurationError(f"{path} is there already; choose another name, or replace it with --overwrite")


def _wrote(path: Path, what: str = "") -> None:
    progress().print(f"wrote {path}" + (f": {what}" if what else ""), markup=False, soft_wrap=True)


def _replays(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise ConfigurationError(f"--replay must be a number of demonstrations or 'all', got {text!r}")
    return int(text)
