"""``almanac starter``: builds the shipped model anew; imported from tasks only when it is run."""

from pathlib import Path
from typing import Annotated

import typer

from app.recipe import Architecture

app = typer.Typer(no_args_is_help=True, help="The starter model and its invented world.")


@app.callback()
def choose() -> None:
    """Keep ``build`` a subcommand while it is the only one."""


@app.command()
def build(
    folder: Path,
    quick: Annotated[bool, typer.Option("--quick", help="A toy, in under a minute.")] = False,
    tokens: Annotated[float | None, typer.Option(help="How much to read.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    architecture: Annotated[
        Architecture, typer.Option(help="How it reads and answers.")
    ] = "causal",
    begin: Annotated[Path | None, typer.Option(help="A built model to go on from.")] = None,
) -> None:
    """Train a starter model and its tokenizer and save them in a folder."""
    from tasks.starter.build import build as build_starter

    build_starter(
        folder, quick=quick, tokens=tokens, device=device, architecture=architecture, begin=begin
    )
