"""JSONL files sent in batches: facts and examples alike."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from app.cli.console import Stop, errors, out
from app.client import BatchItem

BATCH_ITEMS, BATCH_BYTES = 500, 4_000_000
Send = Callable[[Sequence[dict[str, Any]]], list[BatchItem]]


def send_file(file: Path, send: Send) -> None:
    """Submit a file's lines and say what became of them; status 1 when any was refused."""
    items = read_jsonl(file)
    new = known = 0
    refused: list[str] = []
    # Whatever was sent before is known already, so an interrupted import is just run again.
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(file.name, total=len(items))
        for line, item in submit(send, items):
            bar.advance(task)
            if stored := item.fact or item.example:
                known, new = known + stored.deduplicated, new + (not stored.deduplicated)
            else:
                reason = (item.error or {}).get("detail", "refused")
                refused.append(f"{file}, line {line}: {reason}")
    out.print(f"{new} new, {known} known already, {len(refused)} refused.")
    for reason in refused:
        errors.print(reason)
    if refused:
        raise typer.Exit(1)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read objects, or raise Stop naming the first line that isn't one."""
    items = []
    try:
        # JSON may hold other line breaks as they are, which splitlines() would take for such.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise Stop(f"{path} isn't UTF-8 text.") from None
    for number, line in enumerate(lines, start=1):
        try:
            item = json.loads(line)
            json.dumps(item, ensure_ascii=False, allow_nan=False).encode()  # as it will be sent
        except (ValueError, RecursionError) as error:
            raise Stop(f"{path}, line {number}: not JSON ({error}). Nothing was sent.") from None
        if not isinstance(item, dict):
            raise Stop(f"{path}, line {number}: not a JSON object. Nothing was sent.")
        items.append(item)
    return items


def submit(send: Send, items: list[dict[str, Any]]) -> Iterator[tuple[int, BatchItem]]:
    """Submit in batches; yield each line's number with what became of it."""
    start = 0
    while start < len(items):
        size, end = 0, start
        while end < len(items) and end - start < BATCH_ITEMS and size < BATCH_BYTES:
            size += len(json.dumps(items[end]))
            end += 1
        for item in send(items[start:end]):
            yield start + item.index + 1, item
        start = end
