"""Parts 4 and 6: the arithmetic that a model needs, against what the machine multiplies at best."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from peft import LoraConfig, get_peft_model

from app.lm.loading import Bundle
from app.recipe import SMALL_MODEL_PARAMETERS, MethodName, Recipe, default_recipe
from tasks.bench.experiment import Cell
from tasks.bench.figures import Figure
from tasks.bench.flops import Counted, flops
from tasks.bench.training.arms import EQUAL, TOKENS, Clock, Lap, as_facts, middle, run_trainer
from tasks.bench.training.plan import Case, Plan, Shape
from tasks.bench.training.subjects import Ground, make_texts, randomize
from tasks.training.data import Lessons
from tasks.training.precision import autocast

GOAL = 0.45
GPU_BATCH = 64
GPU_GEMMS = (4096, 8192)
# As the trainer loads a parent.
WEIGHTS = {"full": torch.float32, "lora": torch.bfloat16}


def gemm_peak(sides: Sequence[int], device: str, dtype: torch.dtype) -> Lap:
    """Return the highest FLOPs a second, and a CPU second, of square products."""
    best = [0.0, 0.0]
    for side in sides:
        # Not ones, which take less power and so run faster than any model's numbers.
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(3):
            _wait(device)
            clock = Clock()
            clock()
            left @ right
            _wait(device)
            clock()
            best = [max(b, 2 * side**3 / t) for b, t in zip(best, clock.laps[0], strict=True)]
    return best[0], best[1]


def measure(bundle: Bundle, texts: Sequence[str], plan: Plan, sides: Sequence[int]) -> Cell:
    """Time steps and products in turn; return what was done of what could be."""
    device = next(bundle.model.parameters()).device
    recipe = Recipe(**EQUAL, epochs=plan.steps + 1, batch_size=len(texts))
    with autocast(device, recipe):
        narrow = torch.is_autocast_enabled(device.type)
    dtype = torch.bfloat16 if narrow else torch.float32
    shares: list[Lap] = []
    rates, speeds = [], []
    for _ in range(plan.rounds):
        counted, clock = Counted(TOKENS), Clock()
        run_trainer(bundle, Lessons(as_facts(texts)), recipe, clock, counted)
        seen = counted.sizes[len(texts) :]  # the first step isn't timed
        seconds, cpu = (sum(side) for side in zip(*clock.laps, strict=True))
        work = flops(bundle.model, seen)
        rates.append(work / seconds)
        speeds.append(sum(tokens for tokens, _ in seen) / seconds)
        peak, peak_cpu = gemm_peak(sides, device.type, dtype)
        shares.append((rates[-1] / peak, work / cpu / peak_cpu))
    return {
        "shares": middle(shares),
        "flops": median(rates),
        "tokens": median(speeds),
        "showing": sum(tokens for tokens, _ in seen) / len(seen),
        "batch": len(texts),
        "dtype": str(dtype).removeprefix("torch."),
    }


def figure(cell: Cell, name: str, goal: float | None = None) -> Figure:
    """Say what share of the machine's best a model's training was."""
    share, by_cpu = cell["shares"]
    value = (
        f"{share:.0%} of the {cell['dtype']} GEMM peak ({cell['flops'] / 1e9:.0f} GFLOP/s,"
        f" {cell['tokens']:.0f} tokens/s; by CPU time {by_cpu:.0%})"
    )
    asked, met = ("reported", None) if goal is None else (f">= {goal:.0%}", share >= goal)
    return Figure(f"arithmetic: {name}, batch of {cell['batch']}", value, asked, met)


def measure_gpu(ground: Ground, plan: Plan, shape: Shape, method: MethodName) -> Cell:
    """Train a real model's shape on the GPU; a GPU that is too small says so."""
    starter = ground.open_starter()
    texts = make_texts(Case(shape, GPU_BATCH), starter)
    try:
        bundle = trainable(randomize(starter, shape, "cuda", WEIGHTS[method]), method)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the weights were drawn in float32
        cell = measure(bundle, texts, plan, GPU_GEMMS)
    except torch.OutOfMemoryError:
        return {"short": torch.cuda.get_device_properties(0).total_memory / 2**30}
    return {**cell, "peak": torch.cuda.max_memory_allocated() / 2**30}


def trainable(bundle: Bundle, method: MethodName) -> Bundle:
    """Have all weights learn, or an adapter of the default rank over all linear layers."""
    if method == "full":
        return bundle
    recipe = Recipe()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules="all-linear",
    )
    return replace(bundle, model=get_peft_model(bundle.model, config))


def gpu_figures(cell: Cell, shape: Shape, method: MethodName) -> list[Figure]:
    """Say what share of the GPU's best it was, what it held, and how many facts it would teach."""
    name = f"{shape.name}, {method}"
    if "short" in cell:
        return [Figure(f"arithmetic: {name}", f"doesn't fit {cell['short']:.0f} GiB")]
    peak = Figure(f"peak memory: {name}", f"{cell['peak']:.1f} GiB", "reported")
    recipe = default_recipe(SMALL_MODEL_PARAMETERS)
    taught = cell["tokens"] * (1 - recipe.replay_share) / (cell["showing"] * recipe.epochs)
    facts = Figure(
        f"facts in a GPU hour: {name}",
        f"{3600 * taught:.0f}, if a fact takes {recipe.epochs} showings of {cell['showing']:.0f}"
        f" tokens and {recipe.replay_share:.0%} of all are replay (assumed; nothing is proven)",
        "reported",
    )
    return [figure(cell, name, GOAL), peak, facts]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
