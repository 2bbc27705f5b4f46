"""``almanac facts``."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import connect, out, table, when
from app.cli.imports import send_file

app = typer.Typer(no_args_is_help=True, help="Submit, import, list, show and delete facts.")


@app.command()
def add(
    ctx: typer.Context,
    text: str,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    fact_key: Annotated[str | None, typer.Option(help="Names what the fact is about.")] = None,
) -> None:
    """Submit one fact; it is answerable at once."""
    given = {"text": text, "source": source, "key": fact_key}
    with connect(ctx) as client:
        fact = client.add_fact({name: value for name, value in given.items() if value is not None})
    known = " (known already)" if fact.deduplicated else ""
    out.print(f"{fact.id} {fact.status}{known}")


@app.command("import")
def import_file(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
) -> None:
    """Submit a JSONL file: one fact a line, in the shape of POST /v1/facts."""
    with connect(ctx) as client:
        send_file(file, client.add_facts)


@app.command("list")
def list_facts(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option(help="Only facts that stand so.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most facts to list.")] = 20,
) -> None:
    """List facts, newest first."""
    shown = table("ID", "STATUS", "VERSION", "TEXT")
    with connect(ctx) as client:
        for fact in islice(client.list_facts(status), limit):
            version = "" if fact.version is None else str(fact.version)
            shown.add_row(fact.id, fact.status, version, fact.text)
    out.print(shown)


@app.command()
def show(ctx: typer.Context, fact_id: str) -> None:
    """Show one fact and what each version answered to its probes."""
    with connect(ctx) as client:
        fact, proofs = client.get_fact(fact_id), client.get_proofs(fact_id)
    out.print(fact.text)
    version = "" if fact.version is None else f", version {fact.version}"
    out.print(f"{fact.status}{version}, submitted {when(fact.created_at)}")
    if fact.error:
        out.print(fact.error)
    if proofs:
        shown = table("VERSION", "DIRECTION", "ORIGIN", "QUESTION", "BEFORE", "AFTER", "PASSED")
        for proof in proofs:
            passed = "yes" if proof.passed else "no"
            cells = (
                proof.direction,
                proof.origin,
                proof.question,
                proof.before,
                proof.after,
                passed,
            )
            shown.add_row(str(proof.version), *cells)
        out.print(shown)


@app.command()
def delete(ctx: typer.Context, fact_id: str) -> None:
    """Retract a fact."""
    with connect(ctx) as client:
        client.delete_fact(fact_id)
    out.print(f"{fact_id} retracted.")
