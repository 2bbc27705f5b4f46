"""Facts: submit, read, search, retract, requeue."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from app.deps import OnceDep, ReaderDep, SessionDep, SettingsDep, needs
from app.models import Fact
from app.routes.batches import MAX_BATCH_BODY, submit_each
from app.schemas.common import ListOf, NumberedPageQuery, Problem, Reason
from app.schemas.facts import (
    BatchResult,
    FactBatchIn,
    FactIn,
    FactOut,
    FactQuery,
    ProofOut,
    RequeueIn,
    RetractIn,
    RetractOut,
    ReviewIn,
    SearchIn,
    SubmittedFact,
    facts_out,
)
from app.services import decisions, facts, vllm
from app.services.audit import Actor
from app.services.search import search
from app.services.standing import find_standings

router = APIRouter(tags=["facts"])
Writer = Annotated[Actor, Depends(needs("facts:write"))]
reads = [Depends(needs("facts:read"))]


@router.post(
    "/facts",
    status_code=201,
    response_model=SubmittedFact,
    responses={200: {"model": SubmittedFact, "description": "A live fact with this text and key"}},
)
def submit_fact(
    body: FactIn, session: SessionDep, actor: Writer, settings: SettingsDep, once: OnceDep
) -> Response:
    """Submit one fact: answerable at once, in the weights soon.

    A known one gets the dates said last. What doesn't hold now can't supersede what does.
    """

    def work() -> tuple[int, SubmittedFact]:
        vllm.check_texts(session, settings, _texts(body))
        fact, created = facts.submit(session, actor, body.row(), body.on_conflict)
        standing = find_standings(session, [fact])[fact.id]
        answer = SubmittedFact.of(fact, standing, deduplicated=not created)
        return 201 if created else 200, answer

    return once(work)


@router.post("/facts/batch", response_model=ListOf[BatchResult], max_body_size=MAX_BATCH_BODY)
def submit_batch(
    body: FactBatchIn,
    request: Request,
    session: SessionDep,
    actor: Writer,
    settings: SettingsDep,
    once: OnceDep,
) -> Response:
    """Submit up to 1,000 facts; each is accepted or refused on its own."""

    def parse(item: Any) -> tuple[Fact, facts.OnConflict]:
        fact = FactIn.model_validate(item)
        vllm.check_texts(session, settings, _texts(fact))
        return fact.row(), fact.on_conflict

    def work() -> tuple[int, ListOf[BatchResult]]:
        results = []
        for index, outcome in enumerate(submit_each(request, session, actor, body.facts, parse)):
            if isinstance(outcome, Problem):
                results.append(BatchResult(index=index, status=outcome.status, error=outcome))
                continue
            known = not outcome.created
            fact = SubmittedFact.of(outcome.row, outcome.standing, deduplicated=known)
            results.append(BatchResult(index=index, status=outcome.status, fact=fact))
        return 200, ListOf[BatchResult](data=results)

    return once(work)


@router.get("/facts", dependencies=reads)
def list_facts(query: Annotated[FactQuery, Query()], session: ReaderDep) -> ListOf[FactOut]:
    """List facts, newest first."""
    rows, has_more = facts.list_facts(
        session, query.page(), status=query.status, source=query.source, key=query.key
    )
    return ListOf(data=facts_out(rows, find_standings(session, rows)), has_more=has_more)


@router.post("/facts/search", dependencies=reads)
def search_facts(body: SearchIn, session: ReaderDep) -> ListOf[FactOut]:
    """Find facts that share words with the query, best match first, whatever their status."""
    rows = search(session, body.query, body.limit)
    return ListOf(data=facts_out(rows, find_standings(session, rows)))


@router.post("/facts/requeue", response_model=ListOf[FactOut])
def requeue_facts(body: RequeueIn, session: SessionDep, actor: Writer, once: OnceDep) -> Response:
    """Let failed or rolled-back facts train again, all or none."""

    def work() -> tuple[int, ListOf[FactOut]]:
        rows = facts.requeue(session, actor, body.fact_ids, body.reason)
        return 200, ListOf[FactOut](data=facts_out(rows, find_standings(session, rows)))

    return once(work)


@router.post("/facts/review", response_model=ListOf[FactOut])
def review_facts(body: ReviewIn, session: SessionDep, actor: Writer, once: OnceDep) -> Response:
    """Approve or reject quarantined facts, all or none."""

    def work() -> tuple[int, ListOf[FactOut]]:
        rows = decisions.review(session, actor, body.fact_ids, body.decision, body.reason)
        return 200, ListOf[FactOut](data=facts_out(rows, find_standings(session, rows)))

    return once(work)


@router.post("/facts/retract", response_model=RetractOut)
def retract_source(body: RetractIn, session: SessionDep, actor: Writer, once: OnceDep) -> Response:
    """Retract every live fact of a source; one rebuild takes what is in the weights."""

    def work() -> tuple[int, RetractOut]:
        count = decisions.retract_source(session, actor, body.source, body.reason)
        return 200, RetractOut(source=body.source, retracted=count)

    return once(work)


@router.get("/facts/{fact_id}", dependencies=reads)
def get_fact(fact_id: str, session: ReaderDep) -> FactOut:
    """Read one fact."""
    return _read(session, facts.get(session, fact_id))


@router.delete("/facts/{fact_id}")
def retract_fact(
    fact_id: str,
    session: SessionDep,
    actor: Writer,
    reason: Annotated[Reason | None, Query(description="Kept in the audit trail")] = None,
) -> FactOut:
    """Retract a fact for good; one that current contains reads `retracting` until it doesn't."""
    return _read(session, facts.retract(session, actor, fact_id, reason))


@router.get("/facts/{fact_id}/proofs", dependencies=reads)
def list_proofs(
    fact_id: str, query: Annotated[NumberedPageQuery, Query()], session: ReaderDep
) -> ListOf[ProofOut]:
    """List what each version answered to the fact's probes."""
    rows, has_more = facts.list_proofs(session, fact_id, query.page())
    return ListOf(data=[ProofOut.model_validate(row) for row in rows], has_more=has_more)


def _read(session: Session, fact: Fact) -> FactOut:
    return FactOut.of(fact, find_standings(session, [fact])[fact.id])


def _texts(fact: FactIn) -> dict[str, str]:
    """Return what a model will be asked to read, by JSON pointer."""
    probes = enumerate(fact.probes)
    return {"/text": fact.text, **{f"/probes/{n}/question": p.question for n, p in probes}}
