"""The objectives by their name in the recipe."""

from collections.abc import Callable

from app.recipe import ObjectiveName, Recipe
from tasks.training.objectives.base import Objective
from tasks.training.objectives.causal import Causal
from tasks.training.objectives.diffusion import Diffusion
from tasks.training.objectives.masked import Masked

OBJECTIVES: dict[ObjectiveName, Callable[[Recipe], Objective]] = {
    "causal": lambda _: Causal(),
    "diffusion": lambda recipe: Diffusion(recipe.t_min, recipe.t_max, recipe.span_share),
    "masked": lambda recipe: Masked(
        recipe.t_min, recipe.t_max, recipe.span_share, recipe.infill_share, recipe.cut_share
    ),
}
