"""``almanac ask``."""

from typing import Annotated

import typer

from app.cli.console import connect, out
from app.client import Answer


def ask(
    ctx: typer.Context,
    question: str,
    version: Annotated[int | None, typer.Option(help="Ask this version, not the current.")] = None,
    overlay: Annotated[
        bool | None, typer.Option(help="Use facts that aren't in the weights yet.")
    ] = None,
) -> None:
    """Ask a question; the answer says which version gave it and from where."""
    with connect(ctx) as client:
        answer = client.ask(question, version=version, overlay=overlay)
    out.print(answer.answer, soft_wrap=True)
    out.print(f"({describe(answer)}, {answer.latency_ms:.0f} ms)", style="dim")


def describe(answer: Answer) -> str:
    """Say where an answer comes from."""
    source = "from the weights" if answer.source == "weights" else "from facts given in context"
    return f"version {answer.version}, {source}"
