"""How much is measured, and the shapes of real models."""

from dataclasses import dataclass
from typing import Literal

from app.recipe import MethodName, Recipe
from tasks.bench.training.plain import Paper

Part = Literal["step", "proof", "arithmetic", "scale", "gpu"]
PARTS: tuple[Part, ...] = ("step", "proof", "arithmetic", "scale", "gpu")  # the last: CUDA


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, as its config.json on Hugging Face has them."""

    name: str
    family: Literal["qwen3", "llama"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool = True


@dataclass(frozen=True)
class Case:
    """One batch of invented texts, so many tokens each, for a model with random weights."""

    shape: Shape
    batch: int
    shortest: int = 20
    longest: int = 400


# Qwen3's vocabulary and proportions of a layer; few layers, so that a step takes seconds on a CPU.
WIDE = Shape("Qwen3-class, hidden 256, 4 layers", "qwen3", 256, 4, 4, 2, 64, 768, 151_936)
LARGEST = Shape("Qwen3-class, hidden 1024, 6 layers", "qwen3", 1024, 6, 16, 8, 64, 3072, 151_936)
TOY = Shape("toy", "qwen3", 32, 1, 2, 1, 16, 96, 8192)
REAL: tuple[tuple[Shape, MethodName], ...] = (
    (Shape("Qwen3-0.6B", "qwen3", 1024, 28, 16, 8, 128, 3072, 151_936), "full"),
    (Shape("Qwen3-1.7B", "qwen3", 2048, 28, 16, 8, 128, 6144, 151_936), "full"),
    (Shape("Qwen3-8B", "qwen3", 4096, 36, 32, 8, 128, 12_288, 151_936, tied=False), "lora"),
    (Shape("Llama-3.1-8B", "llama", 4096, 32, 32, 8, 128, 14_336, 128_256, tied=False), "lora"),
)


@dataclass(frozen=True)
class Plan:
    """Sizes of every part; ``rounds`` of ``steps`` steps are timed, arms in turn."""

    wide: Case
    largest: Case
    starter_peaks: bool
    rounds: int
    steps: int
    counts: tuple[int, ...]  # facts to be proven
    grid: tuple[Paper, ...]
    epochs: int  # of the trainer, where facts are proven
    every: int  # epochs between two points of a curve
    kept: int  # reference questions asked at its end
    seeds: int
    scale: tuple[int, ...]  # facts in one update
    scale_epochs: int
    scale_rounds: int
    gemms: tuple[int, ...]  # sides of square matrices


FULL = Plan(
    wide=Case(WIDE, 4),
    largest=Case(LARGEST, 8),
    starter_peaks=True,
    rounds=5,
    steps=3,
    counts=(20, 100),
    grid=tuple(
        Paper(lr=lr, t_min=low, t_max=high, epochs=200)
        for lr in (3e-4, 8e-4, 2e-3)
        for low, high in ((0.05, 0.95), (0.5, 0.5))
    ),
    epochs=Recipe().epochs,
    every=10,
    kept=100,
    seeds=3,
    scale=(10, 32, 100, 320, 1000),
    scale_epochs=10,
    scale_rounds=2,
    gemms=(1024, 2048, 4096),
)
QUICK = Plan(
    wide=Case(TOY, 2, 10, 40),
    largest=Case(TOY, 2, 10, 40),
    starter_peaks=False,
    rounds=1,
    steps=1,
    counts=(3,),
    grid=(Paper(lr=8e-4, epochs=2),),
    epochs=2,
    every=1,
    kept=4,
    seeds=1,
    scale=(2, 4),
    scale_epochs=1,
    scale_rounds=1,
    gemms=(1024,),
)
