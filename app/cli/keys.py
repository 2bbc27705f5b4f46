"""``almanac keys``."""

from typing import Annotated

import typer

from app.cli.console import connect, out, table, when

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


@app.command()
def create(
    ctx: typer.Context,
    name: str,
    scope: Annotated[list[str], typer.Option(help="A scope such as qa; may be repeated.")],
) -> None:
    """Make a key and print its secret, which can't be read again."""
    with connect(ctx) as client:
        key = client.create_key(name, scope)
    out.print(f"{key.id} {key.name} ({', '.join(key.scopes)})")
    out.print(key.secret or "", soft_wrap=True)


@app.command("list")
def list_keys(ctx: typer.Context) -> None:
    """List keys, newest first."""
    shown = table("ID", "NAME", "SCOPES", "CREATED", "REVOKED")
    with connect(ctx) as client:
        for key in client.list_keys():
            scopes = ", ".join(key.scopes)
            shown.add_row(key.id, key.name, scopes, when(key.created_at), when(key.revoked_at))
    out.print(shown)


@app.command()
def revoke(ctx: typer.Context, key_id: str) -> None:
    """Revoke a key from now on."""
    with connect(ctx) as client:
        client.revoke_key(key_id)
    out.print(f"{key_id} revoked.")
