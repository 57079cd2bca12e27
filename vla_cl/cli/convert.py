"""`vla-cl data convert`: demonstrations from and to the layouts of robomimic, LIBERO and LeRobot."""

from __future__ import annotations

from pathlib import Path

import typer

from vla_cl.cli.output import PluginOption, progress
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins


def convert(
    sources: list[Path] = typer.Argument(
        ..., metavar="SOURCE...", show_default=False, help="Demonstration files, folders of them, LeRobot data sets."
    ),
    to: str = typer.Option(
        ..., "--to", metavar="LAYOUT", show_default=False, help="vla_cl, robomimic, libero or lerobot."
    ),
    output: Path = typer.Option(
        ..., "--output", metavar="PATH", show_default=False, help="A file for one task, a folder for several."
    ),
    images: bool = typer.Option(
        False, "--images", help="For lerobot: keep images exactly, as PNG, instead of as video, which is lossy."
    ),
    camera: list[str] | None = typer.Option(
        None, "--camera", metavar="OLD=NEW", help="Give a camera another name; repeatable."
    ),
    force: bool = typer.Option(False, "--force", help="Replace what is there already."),
    plugin: list[str] | None = PluginOption,
) -> None:
    """Convert demonstrations between this package's layout, robomimic's, LIBERO's and LeRobot's (v3.0).

    What a layout is, the content says. A LeRobot data set holds many tasks; for the others each task gets its file.

    [bold]Examples[/bold]

    vla-cl data convert LIBERO/libero_goal --to vla_cl --output demonstrations/libero

    vla-cl data convert demonstrations/meta_world --to lerobot --output my-dataset
    """
    load_plugins(plugin or [])
    from vla_cl.data import convert as write
    from vla_cl.data import plan_conversion

    if images and to != "lerobot":
        raise ConfigurationError(f"--images is for --to lerobot; {to} always keeps images exactly")
    conversion = plan_conversion(sources, to, output, cameras=_cameras(camera or []))
    for path in conversion.outputs:
        if path.exists() and not force:
            raise ConfigurationError(f"{path} is there already; choose another name, or replace it with --force")
    write(conversion, png=images, plugins=tuple(plugin or []))
    for path in conversion.outputs:
        progress().print(f"wrote {path}", markup=False, soft_wrap=True)
    if to == "lerobot" and not images:
        progress().print("images are in videos, which is lossy; --images keeps them exactly", soft_wrap=True)


def _cameras(words: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for word in words:
        old, separator, new = word.partition("=")
        if not (old and separator and new) or old in names:
            raise ConfigurationError(f"--camera must be OLD=NEW, each once, got {word!r}")
        names[old] = new
    return names
