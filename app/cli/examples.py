"""``almanac examples``."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import connect
from app.cli.imports import send_file

app = typer.Typer(no_args_is_help=True, help="Import prompts with responses to be learned.")


@app.callback()
def _is_group() -> None:
    pass


@app.command("import")
def import_file(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
) -> None:
    """Submit a JSONL file: one example a line, in the shape of POST /v1/examples/batch."""
    with connect(ctx) as client:
        send_file(file, client.add_examples)
