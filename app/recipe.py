"""The recipe: one frozen, torch-free object that describes a training run completely."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ObjectiveName = Literal["masked", "causal", "diffusion"]
Architecture = Literal["causal", "diffusion"]
MethodName = Literal["full", "lora"]
Trained = Literal["all", "words", "mlp"]


class Recipe(BaseModel):
    """How an update is trained, proven and judged; stored with the update and in the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objective: ObjectiveName = Field("masked", description="What the loss asks for")
    method: MethodName = Field("full", description="All weights, or one LoRA adapter over the root")
    trained: Trained = Field(
        "words",
        description="Weights that learn: all; MLPs and the taught words' embeddings (adapters have"
        " none); MLPs",
    )
    lr: float = Field(2e-3, gt=0, description="Peak learning rate")
    epochs: int = Field(100, ge=1, description="Exposures of each fact")
    batch_size: int = Field(64, ge=1, description="Facts in one step")
    warmup_share: float = Field(0.02, ge=0, le=1, description="Share of steps with rising lr")
    decay_share: float = Field(0.3, ge=0, le=1, description="Share of steps with falling lr")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, not on norms and biases")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient clipping")
    t_min: float = Field(0.05, ge=0, le=1, description="Least share of masked tokens")
    t_max: float = Field(0.95, ge=0, le=1, description="Greatest share of masked tokens")
    span_share: float = Field(0.5, ge=0, le=1, description="Samples masked as whole spans")
    infill_share: float = Field(0.7, ge=0, le=1, description="Samples that ask for a span alone")
    cut_share: float = Field(0.4, ge=0, le=1, description="Of these, show a part of the rest alone")
    study_share: float = Field(
        0.3, ge=0, le=1, description="Samples that ask what the model wrote about the statement"
    )
    protection: float = Field(
        10.0,
        ge=0,
        description="How much steps are damped along the inputs of replay (for 20 facts)",
    )
    replay_share: float = Field(0.4, ge=0, lt=1, description="Share of a step's samples: replay")
    kl_weight: float = Field(
        4.0, ge=0, description="Weight, on replay, of the KL to the parent and the base model"
    )
    held_out_share: float = Field(0.2, gt=0, lt=1, description="Examples that are only asked")
    lora_rank: int = Field(16, ge=1, description="Rank of the adapter")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapter is alpha / rank")
    max_older_drop: float = Field(0.05, ge=0, le=1, description="Gate: most older answers lost")
    max_reference_drop: float = Field(0.05, ge=0, le=1, description="Gate: reference answers lost")
    max_base_drop: float = Field(
        0.25, ge=0, le=1, description="Gate: of the base model's reference answers, lost by now"
    )
    max_kl: float = Field(1.0, ge=0, description="Gate: KL to the parent on reference text")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of masks and order")
    save_every_s: float = Field(600.0, ge=0, description="Seconds between saves of a run's state")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it trains")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Compute type")
    devices: int = Field(1, ge=1, le=64, description="Devices of one machine that share each step")
    checkpointing: bool = Field(False, description="Recompute activations: less memory, slower")


SMALL_MODEL_PARAMETERS = 300_000_000


def default_recipe(
    parameters: int, architecture: Architecture = "causal", method: MethodName | None = None
) -> Recipe:
    """Choose the defaults for a model of a kind with so many parameters.

    A ``method`` other than the usual one has its own rate: of adapters of small models the best of
    those tried (docs/knowledge.md), of all of a large model's weights an unmeasured, careful one.
    """
    chosen = Recipe()
    if parameters >= SMALL_MODEL_PARAMETERS:
        chosen = Recipe(
            method="lora",
            trained="all",
            lr=1e-4,
            epochs=60,
            batch_size=16,
            study_share=0.0,
            protection=0.0,
            kl_weight=2.0,
        )
    if method not in (None, chosen.method):
        own = {"lr": 3e-3, "trained": "all"} if method == "lora" else {"lr": 1e-5}
        chosen = chosen.model_copy(update={"method": method, **own})
    if architecture == "diffusion":
        chosen = chosen.model_copy(update={"objective": "diffusion"})
    return chosen


def fits_architecture(objective: ObjectiveName, architecture: Architecture) -> bool:
    """Say whether a model of this kind can be trained so: diffusion models in their way alone."""
    return (objective == "diffusion") == (architecture == "diffusion")
