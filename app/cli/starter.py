"""``almanac starter``: builds the shipped model anew; imported from tasks only when it is run."""

from pathlib import Path

import typer

app = typer.Typer(no_args_is_help=True, help="The starter model and its invented world.")


@app.callback()
def choose() -> None:
    """Keep ``build`` a subcommand while it is the only one."""


@app.command()
def build(folder: Path) -> None:
    """Write the world, train the tokenizer and the model, and save them in a folder."""
    from tasks.starter.build import build as build_starter

    build_starter(folder)
