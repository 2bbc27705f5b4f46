"""In which type of number a run multiplies."""

import torch

from app.recipe import Recipe


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Compute in bf16 where the recipe says so or, by default, where the hardware multiplies it.

    On such a CPU a step takes about half the time; the weights stay float32.
    """
    cpu = torch.cpu.get_capabilities()
    has_bf16 = device.type == "cuda" or any(cpu.get(f"{unit}_bf16") for unit in ("amx", "avx512"))
    wanted = recipe.precision == "bf16" or (recipe.precision == "auto" and has_bf16)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
