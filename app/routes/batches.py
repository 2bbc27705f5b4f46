"""Batches: each item is accepted or refused on its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.errors import DomainError
from app.models import Fact
from app.problems import domain_body, validation_body
from app.schemas.common import Problem
from app.services import facts
from app.services.audit import Actor
from app.services.facts import OnConflict
from app.services.standing import Standing, find_standings

MAX_BATCH_BODY = 8 * 1024 * 1024


@dataclass(frozen=True)
class Accepted:
    """An item that is in the ledger now."""

    row: Fact
    standing: Standing
    created: bool

    @property
    def status(self) -> int:
        """Return what a POST of this item alone would answer."""
        return 201 if self.created else 200


def submit_each(
    request: Request,
    session: Session,
    actor: Actor,
    items: list[Any],
    parse: Callable[[Any], tuple[Fact, OnConflict]],
) -> list[Accepted | Problem]:
    """Submit a batch's items; `parse` makes one a row, or raises what is wrong with it."""
    results: dict[int, Accepted | Problem] = {}
    rows: dict[int, tuple[Fact, OnConflict]] = {}
    for index, item in enumerate(items):
        try:
            rows[index] = parse(item)
        except ValidationError as exc:
            found = exc.errors(include_url=False, include_context=False, include_input=False)
            results[index] = Problem.model_validate(validation_body(request, found))
        except DomainError as exc:
            results[index] = _problem(request, exc)
    outcomes = facts.submit_batch(session, actor, list(rows.values()))
    stored = [outcome[0] for outcome in outcomes if not isinstance(outcome, DomainError)]
    standings = find_standings(session, stored)
    for index, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, DomainError):
            results[index] = _problem(request, outcome)
        else:
            row, created = outcome
            results[index] = Accepted(row, standings[row.id], created)
    return [results[index] for index in range(len(items))]


def _problem(request: Request, error: DomainError) -> Problem:
    return Problem.model_validate(domain_body(request, error))
