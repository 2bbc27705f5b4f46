"""``almanac backup``."""

from pathlib import Path
from typing import Annotated

import typer

from app import backup
from app.cli.console import load_settings, out
from app.cli.prepare import lock

app = typer.Typer(no_args_is_help=True, help="Back everything up into one file, or restore it.")


@app.command()
def create(file: Annotated[Path, typer.Argument(help="The tar file to write.")]) -> None:
    """Write the database and its checkpoints into a file; the service may run meanwhile."""
    count = backup.create(load_settings(), file)
    out.print(f"{file} holds the database and {count} checkpoints.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A backup.")],
) -> None:
    """Restore a backup into an empty data directory and database."""
    settings = load_settings()
    with lock(settings):
        count = backup.restore(settings, file)
    out.print(
        f"Restored the database and {count} checkpoints. API keys are those of the backup; "
        "admin.key is none of it."
    )
