"""The recipe of an update: the base model's defaults, and what somebody wishes otherwise."""

from sqlalchemy.orm import Session

from app.errors import Invalid, Unavailable
from app.models import Checkpoint
from app.recipe import Recipe, default_recipe, fits_architecture


def choose(session: Session, wish: Recipe | None) -> Recipe:
    """Return the base model's defaults, changed where the wish sets a field.

    `Invalid` for an objective that a model of its kind can't be trained by.
    """
    base = session.get(Checkpoint, 0)
    if base is None:
        raise Unavailable("No base model is registered yet.")
    kind = base.metrics["architecture"]
    wished = wish.model_dump(exclude_unset=True) if wish else {}
    parameters = int(base.metrics["parameters"])
    chosen = default_recipe(parameters, kind, wished.get("method")).model_copy(update=wished)
    if not fits_architecture(chosen.objective, kind):
        detail = f"The base model is a {kind} one: `{chosen.objective}` can't train it."
        raise Invalid(detail, pointer="/recipe/objective")
    return chosen
