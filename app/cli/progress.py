"""An update's progress as a live bar; plain lines where there is no terminal."""

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.console import out
from app.client import AlmanacClient, Event, Update

# How much of the bar each phase fills: its share begins and ends here, in percent.
SPANS = {
    "preparing": (0.0, 5.0),
    "training": (5.0, 80.0),
    "proving": (80.0, 97.0),
    "publishing": (97.0, 100.0),
}


def watch(client: AlmanacClient, update_id: str) -> Update:
    """Show an update until it is finished and return it."""
    with Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=40),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=out,
    ) as bar:
        task = bar.add_task("waiting", total=100, note="")

        def show(event: Event) -> None:
            phase = event.data.get("phase")
            if phase in SPANS:
                bar.update(task, description=phase, completed=position(event), note=describe(event))

        update = client.wait_for_update(update_id, show)
        if update.status == "succeeded":
            bar.update(task, description="finished", completed=100, note="")
    return update


def position(event: Event) -> float:
    """Return the bar's position in percent."""
    data = event.data
    start, end = SPANS[data["phase"]]
    done, total = (data.get("step"), data.get("total_steps"))
    if total is None:
        done, total = (data.get("asked"), data.get("exams"))
    return start + (end - start) * min((done or 0) / total, 1.0) if total else start


def describe(event: Event) -> str:
    """Say what is known of the phase: questions asked, or steps, loss and recall."""
    data, parts = event.data, []
    if data.get("exams"):
        parts.append(f"question {data.get('asked')} of {data['exams']}")
    if data.get("total_steps"):
        parts.append(f"step {data.get('step')} of {data['total_steps']}")
    if data.get("loss") is not None:
        parts.append(f"loss {data['loss']:.3f}")
    if data.get("recall") is not None:
        parts.append(f"recall {data['recall']:.0%}")
    return ", ".join(parts)


def conclude(update: Update) -> str:
    """Say in a sentence how an update ended."""
    if update.status == "succeeded":
        why = f": {'; '.join(update.reasons)}" if update.reasons else ""
        return f"Version {update.version} was {update.outcome}{why}."
    detail = (update.error or {}).get("detail")
    return f"The update {update.status}{f': {detail}' if detail else '.'}"
