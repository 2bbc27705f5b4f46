"""``almanac updates``."""

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any

import typer

from app.cli.console import Stop, connect, out, table, when
from app.cli.progress import conclude
from app.cli.progress import watch as watch_update
from app.client import AlmanacClient, Update

app = typer.Typer(
    no_args_is_help=True, help="Start, list, show, watch, cancel updates; rebuild, consolidate."
)


@app.command()
def start(
    ctx: typer.Context,
    fact: Annotated[
        list[str] | None, typer.Option(help="Id of a fact to learn; none: all that wait.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="masked or causal.")] = None,
    method: Annotated[str | None, typer.Option(help="full or lora.")] = None,
    activation: Annotated[str, typer.Option(help="auto, manual or never.")] = "auto",
    watch: Annotated[bool, typer.Option("--watch", help="Show its progress.")] = False,
) -> None:
    """Start learning the waiting facts."""
    chosen = {"objective": objective, "method": method}
    recipe = {name: value for name, value in chosen.items() if value is not None}
    wish: dict[str, Any] = {
        "fact_ids": fact or None,
        "recipe": recipe or None,
        "activation": activation,
    }
    _begin(ctx, lambda client: client.start_update(**wish), watch=watch)


@app.command()
def rebuild(
    ctx: typer.Context,
    activation: Annotated[str, typer.Option(help="auto, manual or never.")] = "auto",
    watch: Annotated[bool, typer.Option("--watch", help="Show its progress.")] = False,
) -> None:
    """Take what was withdrawn out of the weights now."""
    _begin(ctx, lambda client: client.start_rebuild(activation=activation), watch=watch)


@app.command()
def consolidate(
    ctx: typer.Context,
    activation: Annotated[str, typer.Option(help="auto, manual or never.")] = "auto",
    watch: Annotated[bool, typer.Option("--watch", help="Show its progress.")] = False,
) -> None:
    """Merge the current adapter into its root now."""
    _begin(ctx, lambda client: client.start_consolidation(activation=activation), watch=watch)


@app.command("list")
def list_updates(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Most updates to list.")] = 20,
) -> None:
    """List updates, newest first."""
    shown = table("ID", "KIND", "STATUS", "OUTCOME", "VERSION", "FACTS", "CREATED")
    with connect(ctx) as client:
        for update in islice(client.list_updates(), limit):
            version = "" if update.version is None else str(update.version)
            cells = (update.id, update.kind, update.status, update.outcome or "", version)
            shown.add_row(*cells, str(len(update.fact_ids)), when(update.created_at))
    out.print(shown)


@app.command()
def show(ctx: typer.Context, update_id: str) -> None:
    """Show one update."""
    with connect(ctx) as client:
        update = client.get_update(update_id)
    out.print_json(update.model_dump_json())


@app.command()
def watch(ctx: typer.Context, update_id: str) -> None:
    """Show an update's progress until it is finished."""
    with connect(ctx) as client:
        finish(client, client.get_update(update_id))


@app.command()
def cancel(ctx: typer.Context, update_id: str) -> None:
    """Stop an update; its facts wait again."""
    with connect(ctx) as client:
        update = client.cancel_update(update_id)
    out.print(f"{update.id} {update.status}")


def _begin(ctx: typer.Context, start: Callable[[AlmanacClient], Update], *, watch: bool) -> None:
    with connect(ctx) as client:
        update = start(client)
        out.print(f"{update.id} {update.status}")
        if watch:
            finish(client, update)


def finish(client: AlmanacClient, update: Update) -> Update:
    """Watch an update to its end and say how it ended; Stop unless it succeeded."""
    done = watch_update(client, update.id)
    if done.status != "succeeded":
        raise Stop(conclude(done))
    out.print(conclude(done))
    return done
