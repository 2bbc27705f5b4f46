"""One run on several devices: FSDP2 over the weights that learn, and a share of each step for each.

Every process draws the same curriculum. The first one alone prepares, proves and writes; torchrun
starts the others (``launch.py``), which only train along with it.
"""

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from app.lm.loading import pick_device
from app.recipe import Recipe
from tasks.training.data import Lessons, group
from tasks.training.errors import BadJob
from tasks.training.objectives.base import Example

# The others wait while the first one asks the parent; torchrun ends them all when one has died.
PATIENCE = timedelta(days=7)
LESSONS = TypeAdapter(Lessons)


@dataclass(frozen=True)
class Spread:
    """One process's place among those of a run; without a mesh it is the only one."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    def tell(self, lessons: Lessons | None) -> Lessons:
        """Return the first process's lessons in every process; the others have none to give."""
        if self.mesh is None and lessons:
            return lessons
        raw = LESSONS.dump_json(lessons) if lessons else b""
        length = torch.tensor(len(raw))
        dist.broadcast(length, 0)
        text = torch.zeros(int(length), dtype=torch.uint8)
        if lessons:
            text = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        dist.broadcast(text, 0)
        return LESSONS.validate_json(text.numpy().tobytes())

    def shard(self, model: Any) -> Any:
        """Return a model to train in the place of ``model``, which lends its frozen tensors.

        Those stay whole on every device, as the anchor needs them. The tensors that learn leave
        ``model``, until ``gather`` brings them back.
        """
        if self.mesh is None:
            return model
        tensors = chain(model.parameters(), model.buffers())
        sharded = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
        frozen = {weight for weight in model.parameters() if not weight.requires_grad}
        kinds = set(model._no_split_modules or ())
        layers = [each for each in sharded.modules() if type(each).__name__ in kinds]
        for module in [*layers, sharded]:
            fully_shard(module, mesh=self.mesh, ignored_params=frozen)
            # Summed, not averaged: `backward` divides by the targets of all processes.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        for weight in _learning(model).values():
            weight.data = weight.data.new_empty(0)
        return sharded

    def gather(self, sharded: Any, model: Any) -> None:
        """Put what a model of ``shard`` has learned into the whole one, in the first process."""
        if self.mesh is None:
            return
        weights = _learning(model)
        for name, weight in _learning(sharded).items():
            whole = weight.detach().full_tensor()
            if self.rank == 0:
                weights[name].data = whole

    def share(self, examples: Sequence[Example], room: int, own_cost: float) -> list[list[Example]]:
        """Return this process's micro-batches of a step, in every process as many.

        A layer's weights are put together by all processes at once, so one that has less to read
        reads an example that counts for nothing.
        """
        ordered = sorted(examples, key=lambda example: len(example.input_ids))
        shares = [group(ordered[rank :: self.size], room, own_cost) for rank in range(self.size)]
        least = ordered[0]
        idle = replace(least, weight=0.0, recalled=[False] * len(least.recalled))
        missing = max(map(len, shares)) - len(shares[self.rank])
        return shares[self.rank] + [[idle]] * missing

    def sum(self, *numbers: float) -> list[float]:
        """Return the sums over all processes."""
        if self.mesh is None:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def collect(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Return whole tensors, on the CPU where they were sharded; none but in the first process.

        Every process has to go through the same names.
        """
        found = {}
        for name, tensor in named:
            # One by one: a device needn't have room for all of them.
            whole = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                found[name] = whole.contiguous()
        return found

    def leave(self) -> None:
        """Part with the others, at the same time in all processes."""
        if self.mesh is not None:
            dist.destroy_process_group()


ALONE = Spread()


def join(recipe: Recipe) -> Spread:
    """Meet the other processes of this run, if torchrun started it, and take a device."""
    if not dist.is_torchelastic_launched():
        return ALONE
    device, local = pick_device(recipe.device), int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        if (count := torch.cuda.device_count()) <= local:
            raise BadJob(f"This machine has {count} devices, fewer than the recipe asks for.")
        torch.cuda.set_device(local)
    # Numbers and lessons travel by gloo: a GPU that waits for them would be kept busy by it.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    size = dist.get_world_size()
    return Spread(dist.get_rank(), size, init_device_mesh(device, (size,)))


def part_of(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return what this process keeps of a tensor that is read whole, as it does of ``weight``."""
    tensor = tensor.to(weight.device)
    if not isinstance(weight, DTensor) or tensor.shape != weight.shape:
        return tensor
    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)


def clip(model: Any, most: float) -> float:
    """Scale the gradient down to a norm of at most ``most``; return its norm before."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _learning(model: Any) -> dict[str, Any]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
