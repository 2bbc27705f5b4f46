"""Feedback on answers."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.deps import OnceDep, SessionDep, SettingsDep, needs
from app.schemas.feedback import FeedbackIn, FeedbackOut
from app.services import feedback, vllm
from app.services.audit import Actor
from app.services.standing import find_standings

router = APIRouter(tags=["answers"])


@router.post("/feedback", status_code=201, response_model=FeedbackOut)
def give_feedback(
    body: FeedbackIn,
    session: SessionDep,
    actor: Annotated[Actor, Depends(needs("qa"))],
    settings: SettingsDep,
    once: OnceDep,
) -> Response:
    """Say whether an answer was right; a correction is kept as a fact that waits for review."""

    def work() -> tuple[int, FeedbackOut]:
        vllm.check_texts(session, settings, {"/correction": body.correction or ""})
        row, fact = feedback.give(session, actor, body.row())
        status = find_standings(session, [fact])[fact.id].status if fact else None
        return 201, FeedbackOut.of(row, status)

    return once(work)
