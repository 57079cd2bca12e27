"""`vla-cl serve`: a checkpoint behind a WebSocket, for an evaluator or a robot elsewhere."""

from __future__ import annotations

from pathlib import Path

import typer

from vla_cl.cli.output import PluginOption

TokenOption = typer.Option(
    None,
    "--token",
    envvar="VLA_CL_SERVER_TOKEN",
    show_envvar=True,
    help="What clients of a server must show (default: nothing). The variable keeps it from other users' sight.",
)


def serve(
    checkpoint: Path = typer.Argument(..., help="A run's folder (its last checkpoint), or a checkpoint's folder."),
    host: str = typer.Option("127.0.0.1", "--host", help="Name or address to listen on; 0.0.0.0 is every interface."),
    port: int = typer.Option(8765, "--port", min=0, max=65535, help="0 takes any free one."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    token: str | None = TokenOption,
    plugin: list[str] | None = PluginOption,
) -> None:
    """Serve a policy, so that it runs on this machine and the simulator or the robot on another.

    Prints the address and serves until Ctrl-C. Nothing is encrypted: listen on this machine or a private network only.

    [bold]Examples[/bold]

    vla-cl serve runs/NAME

    vla-cl serve runs/NAME/checkpoints/stage_02 --host 0.0.0.0 --port 0 --device cuda

    vla-cl evaluate --server ws://127.0.0.1:8765 --suite mw5
    """
    from vla_cl.checkpoint import load_checkpoint
    from vla_cl.evaluation import PolicyServer

    loaded = load_checkpoint(checkpoint, device=device, plugins=tuple(plugin or []))
    served = loaded.served()
    with PolicyServer(loaded.controller, served, host=host, port=port, token=token) as server:
        typer.echo(f"serving {served.policy} ({served.fingerprint}) at {server.address}")
        server.wait()
