"""The ``almanac`` command: what goes wrong is one sentence and status 1, no traceback."""

import sys
from typing import Annotated

import httpx
import typer
from sqlalchemy.exc import SQLAlchemyError

from app.cli import (
    answers,
    backup,
    bench,
    checkpoints,
    examples,
    facts,
    keys,
    processes,
    starter,
    up,
    updates,
)
from app.cli.console import Stop, Target, errors
from app.cli.demo import demo
from app.cli.settings import settings
from app.client import ApiError
from app.errors import DomainError

# What arguments and files may hold that no request can: an id, bytes that are no text, deep JSON.
UNSENT = (httpx.InvalidURL, UnicodeError, RecursionError)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Keep a deployed language model's knowledge current.",
)
app.add_typer(facts.app, name="facts")
app.add_typer(examples.app, name="examples")
app.add_typer(updates.app, name="updates")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(keys.app, name="keys")
app.add_typer(starter.app, name="starter")
app.add_typer(backup.app, name="backup")
app.add_typer(bench.app, name="bench")
app.command()(up.up)
app.command()(processes.migrate)
app.command()(processes.api)
app.command()(processes.engine)
app.command()(processes.worker)
app.command()(answers.ask)
app.command()(checkpoints.rollback)
app.command()(demo)
app.command()(settings)


@app.callback()
def choose(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option(envvar="ALMANAC_URL", help="Address of the service.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="ALMANAC_API_KEY", help="API key.")] = None,
) -> None:
    """Remember which service is meant."""
    ctx.obj = Target(url, key)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except (Stop, ApiError, DomainError, OSError, *UNSENT) as error:
        errors.print(f"almanac: {error}")
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        errors.print(f"almanac: the database can't be used: {reason}")
    except KeyboardInterrupt:
        sys.exit(130)
    else:
        return
    sys.exit(1)
