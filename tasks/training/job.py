"""The job directory, the trainer's whole world: reads the task, reports progress, gives the result.

docs/architecture.md describes the files. Nothing here knows how a model is trained.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.recipe import Recipe
from tasks.training.errors import BadJob

Direction = Literal["forward", "backward"]
Part = Literal["replay", "exam"]
Origin = Literal["given", "cloze", "model", "negated", "frame"]


class Row(BaseModel):
    """A line of a file; a field that it doesn't know is a mistake of the writer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Row)
T = TypeVar("T")


class Probe(Row):
    """A question and the answers that count as right: an exam, never a lesson."""

    question: str = Field(min_length=1)
    answers: list[str] = Field(min_length=1)
    direction: Direction
    origin: Origin = "given"


class Fact(Row):
    """One statement to be learned; or an example, where ``text`` is the response to a prompt.

    ``studied`` are questions that a model wrote about it, each with its answer: lessons, no exams.
    """

    id: str
    text: str = Field(min_length=1)
    prompt: str | None = Field(None, min_length=1)
    probes: list[Probe] = []
    studied: list[tuple[str, str]] = []


class OlderFact(Fact):
    """A statement that the parent learned before: replayed, or only asked.

    A neighbour is asked because it has a taught fact's relation, and others were drawn by lot.
    """

    part: Literal["replay", "exam", "neighbour"]


class Reference(Row):
    """A question of the base model's own world: replayed, or only asked."""

    question: str = Field(min_length=1)
    answers: list[str] = Field(min_length=1)
    direction: Direction = "forward"
    text: str | None = Field(None, description="The statement that holds the answer, if there is")
    part: Part


class Head(Row):
    """What job.json says."""

    update_id: str
    token: int
    kind: Literal["learn", "rebuild", "consolidate"] = "learn"
    store: Path = Field(description="The checkpoint store; only read")
    parent: str = Field(description="Digest of the checkpoint to start from")
    base: str | None = Field(None, description="Digest of the base model, if it isn't the parent")
    recipe: Recipe
    threads: int = Field(1, ge=1, description="CPU threads")
    state: Path | None = Field(None, description="Folder for a long run's state; else this one")


@dataclass(frozen=True)
class Job:
    """Everything that a run needs to know."""

    folder: Path
    head: Head
    facts: list[Fact]
    older: list[OlderFact]
    reference: list[Reference]
    controls: list[Fact] = field(default_factory=list)  # withdrawn: asked, never taught


def read_head(folder: Path) -> Head:
    """Read and check job.json; ``BadJob`` names the field."""
    return _parse(folder / "job.json", Head.model_validate_json)


def read_job(folder: Path) -> Job:
    """Read and check a job directory; ``BadJob`` names the file, line and field."""
    job = Job(
        folder=folder,
        head=read_head(folder),
        facts=_rows(folder / "facts.jsonl", Fact),
        older=_rows(folder / "replay.jsonl", OlderFact),
        reference=_rows(folder / "reference.jsonl", Reference),
        controls=_rows(folder / "controls.jsonl", Fact, optional=True),
    )
    if not job.facts and job.head.kind != "consolidate":
        raise BadJob("facts.jsonl holds no fact.")
    if len({fact.id for fact in job.facts}) < len(job.facts):
        raise BadJob("facts.jsonl holds a fact twice.")
    return job


def _rows(path: Path, kind: type[R], *, optional: bool = False) -> list[R]:
    if optional and not path.exists():
        return []
    adapter = TypeAdapter(kind)

    def parse(raw: bytes) -> list[R]:
        rows = []
        for number, line in enumerate(raw.splitlines(), start=1):
            try:
                if line.strip():
                    rows.append(adapter.validate_json(line))
            except ValidationError as error:
                raise BadJob(f"{path.name}, line {number}: {_first(error)}") from error
        return rows

    return _parse(path, parse)


def _parse(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BadJob(f"{path.name} can't be read: {error.strerror}.") from error
    except ValidationError as error:
        raise BadJob(f"{path.name}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"


class Events:
    """The run's progress for whoever watches: events.jsonl, flushed, at most one line a second.

    A new phase is always told.
    """

    def __init__(self, folder: Path) -> None:
        # A file of an earlier run by hand would be read as this one's progress.
        self._file = (folder / "events.jsonl").open("w", encoding="utf-8")
        self._phase = ""
        self._told_at = float("-inf")

    def tell(self, phase: str, **fields: int | float | None) -> None:
        """Append an event, or drop it when the last one is younger than a second."""
        now = time.monotonic()
        if phase == self._phase and now - self._told_at < 1:
            return
        self._phase, self._told_at = phase, now
        self._file.write(json.dumps({"phase": phase, **fields}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json so that a reader finds the whole of it or nothing, even after a crash."""
    staged = folder / f"result.json.{os.getpid()}"  # several processes of a run may fail at once
    with staged.open("w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(folder / "result.json")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
