"""``almanac checkpoints`` and ``almanac rollback``."""

from itertools import islice
from typing import Annotated

import typer

from app.cli.console import connect, out, table, when

app = typer.Typer(no_args_is_help=True, help="List, show and activate the model's versions.")

Reason = Annotated[str, typer.Option(help="Why; it is kept.")]


@app.command("list")
def list_checkpoints(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Most versions to list.")] = 20,
) -> None:
    """List versions, newest first; * marks the current one."""
    shown = table("", "VERSION", "PARENT", "STATUS", "FACTS", "CREATED", "DIGEST")
    with connect(ctx) as client:
        for found in islice(client.list_checkpoints(), limit):
            parent = "" if found.parent is None else str(found.parent)
            shown.add_row(
                "*" if found.is_current else "",
                str(found.version),
                parent,
                found.status,
                str(found.facts_count),
                when(found.created_at),
                found.digest[:12],
            )
    out.print(shown)


@app.command()
def show(ctx: typer.Context, version: int) -> None:
    """Show one version."""
    with connect(ctx) as client:
        found = client.get_checkpoint(version)
    out.print_json(found.model_dump_json())


@app.command()
def diff(
    ctx: typer.Context,
    version: int,
    against: Annotated[
        int | None, typer.Option(help="Compare with this version; else with its parent.")
    ] = None,
) -> None:
    """Ask two versions about what either has learned; show what they answer differently."""
    shown = table("FACT", "QUESTION", "ACCEPTED", "ANSWER", "ANSWER AGAINST")
    with connect(ctx) as client:
        for found in client.diff(version, against):
            accepted = " | ".join(found.answers)
            cells = (found.question, accepted, found.answer, found.answer_against)
            shown.add_row(found.fact_id, *cells)
    out.print(shown if shown.row_count else "They answer everything alike.")


@app.command()
def activate(
    ctx: typer.Context,
    version: int,
    reason: Reason,
    expected_current: Annotated[
        int | None, typer.Option(help="Refuse if another version is current.")
    ] = None,
) -> None:
    """Make a version current."""
    with connect(ctx) as client:
        done = client.activate(version, reason, expected_current=expected_current)
    out.print(f"Version {done.version} is current.")


def rollback(
    ctx: typer.Context,
    reason: Reason,
    to: Annotated[
        int | None, typer.Option(help="Go to this version; else to the one before.")
    ] = None,
) -> None:
    """Go back to an earlier version."""
    with connect(ctx) as client:
        done = client.rollback(reason, to=to)
    out.print(f"Version {done.version} is current.")
