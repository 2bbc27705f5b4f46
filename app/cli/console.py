"""What every command shares: the terminal, the settings, the connection to the service."""

from dataclasses import dataclass
from datetime import datetime

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app.client import AlmanacClient
from app.config import Settings

# Texts come from users and models: nothing in them is markup.
out = Console(highlight=False, markup=False, emoji=False)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


class Stop(Exception):
    """Ends a command with status 1; its text is a sentence for the person at the terminal."""


@dataclass(frozen=True)
class Target:
    """Which service the command talks to, as far as the options said."""

    url: str | None
    key: str | None


def load_settings() -> Settings:
    """Read the settings, or say which one is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "ALMANAC_" + str(first["loc"][0]).upper()
        raise Stop(f"{name}: {first['msg']} (it is {first['input']!r}).") from None


def connect(ctx: typer.Context) -> AlmanacClient:
    """Open a client: as the options or the environment say, else to this machine's service."""
    target = ctx.find_object(Target) or Target(None, None)
    settings = load_settings()
    key = target.key
    if key is None and target.url is None:  # the local key is for the local service alone
        path = settings.data_dir / "admin.key"
        try:
            key = path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise Stop(
                f"No API key: pass --key, set ALMANAC_API_KEY, or start `almanac up`, "
                f"which writes one to {path}."
            ) from None
    if key is None:
        raise Stop("No API key for this address: pass --key or set ALMANAC_API_KEY.")
    try:
        return AlmanacClient(target.url or local_url(settings.host, settings.port), key)
    except ValueError as error:
        raise Stop(str(error)) from None


def local_url(host: str, port: int) -> str:
    """Return the address under which this machine reaches what listens here."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def table(*columns: str) -> Table:
    """Start a plain table; cells are text, never markup."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def when(at: datetime | None) -> str:
    """Write a time for a table, in the reader's zone."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""
