"""Examples: submit prompts with responses; everything after that is as with facts."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.deps import OnceDep, SessionDep, SettingsDep, needs
from app.models import Fact
from app.routes.batches import MAX_BATCH_BODY, submit_each
from app.schemas.common import ListOf, Problem
from app.schemas.examples import ExampleBatchIn, ExampleIn, ExampleOut, ExampleResult
from app.services import vllm
from app.services.audit import Actor
from app.services.facts import OnConflict

router = APIRouter(tags=["examples"])


@router.post("/examples/batch", response_model=ListOf[ExampleResult], max_body_size=MAX_BATCH_BODY)
def submit_examples(
    body: ExampleBatchIn,
    request: Request,
    session: SessionDep,
    actor: Annotated[Actor, Depends(needs("facts:write"))],
    settings: SettingsDep,
    once: OnceDep,
) -> Response:
    """Submit up to 1,000 examples; they are learned in updates, together with facts.

    Of the examples in an update a share is only asked: all of them count as proven when the new
    version answers more of those rightly than its parent did, or all.
    """

    def parse(item: Any) -> tuple[Fact, OnConflict]:
        example = ExampleIn.model_validate(item)
        texts = {"/prompt": example.prompt, "/response": example.response}
        vllm.check_texts(session, settings, texts)
        return example.row(), "keep"

    def work() -> tuple[int, ListOf[ExampleResult]]:
        results = []
        for index, outcome in enumerate(submit_each(request, session, actor, body.examples, parse)):
            if isinstance(outcome, Problem):
                results.append(ExampleResult(index=index, status=outcome.status, error=outcome))
                continue
            example = ExampleOut.of(outcome.row, outcome.standing, deduplicated=not outcome.created)
            results.append(ExampleResult(index=index, status=outcome.status, example=example))
        return 200, ListOf[ExampleResult](data=results)

    return once(work)
