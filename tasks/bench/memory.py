"""What a resident adapter costs beside the root that it shares."""

import asyncio
from collections.abc import Sequence

import httpx
import torch
from peft import LoraConfig, get_peft_model

from app.lm import store
from app.lm.loading import load
from app.recipe import Recipe
from tasks.bench.deployment import Deployment
from tasks.bench.figures import Figure, Sizes

FIRST = 4  # the first ones also pay for code that is loaded once


async def memory(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Load adapters of one root one after the other and see the engine grow."""
    digests = await asyncio.to_thread(_publish_adapters, running, FIRST + sizes.adapters)
    async with httpx.AsyncClient(base_url=running.settings.engine_url, timeout=60) as http:
        await _load(http, [running.digests[0], *digests[:FIRST]])
        before = running.memory_mb()["engine"]
        await _load(http, digests[FIRST:])
    grown = (running.memory_mb()["engine"] - before) / sizes.adapters
    folder = running.settings.store
    own = store.manifest_of(folder, digests[0]).files["adapter_model.safetensors"].size / 2**20
    root = 4 * store.manifest_of(folder, running.digests[0]).parameters / 2**20
    return [
        Figure(
            f"memory of one more adapter, mean of {sizes.adapters}",
            f"{grown:.1f} MiB (its factors: {own:.1f} MiB; its root: {root:.1f} MiB)",
            "<= a quarter of the root",
            grown <= root / 4,
        )
    ]


async def _load(http: httpx.AsyncClient, digests: Sequence[str]) -> None:
    for digest in digests:
        answer = await http.post("/v1/load_lora_adapter", json={"lora_name": digest})
        answer.raise_for_status()


def _publish_adapters(running: Deployment, count: int) -> list[str]:
    """Publish adapters of the default rank over version 0, with random factors."""
    folder, recipe = running.settings.store, Recipe()
    root = load(folder, running.digests[0])
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules="all-linear"
    )
    model = get_peft_model(root.model, config)
    digests = []
    for seed in range(count):
        torch.manual_seed(seed)
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(tensor, std=0.01)
        target = store.staging_folder(folder, f"adapter.{seed}")
        model.save_pretrained(target)
        (target / "README.md").unlink()
        fields = root.manifest.model_dump(exclude={"files", "format", "notes"})
        over = {"kind": "adapter", "root": root.digest, "parent": root.digest}
        store.seal(target, **fields | over)
        digests.append(store.publish(folder, target))
    return digests
