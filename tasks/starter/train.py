"""Pretraining in slices: bf16 autocast, a schedule set by the tokens read, averaged weights."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tasks.starter.model import Plan, losses, new_model, optimizers
from tasks.starter.packing import TASKS, WEIGHTS, find_targets
from tasks.starter.replay import Replay
from tasks.starter.supply import Supply, steps


class Trainer:
    """One process of a run; rank 0 logs and saves."""

    def __init__(
        self,
        out: Path,
        plan: Plan,
        tokenizer: Path,
        rank: int = 0,
        world: int = 1,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        self.out, self.plan, self.rank, self.world = out, plan, rank, world
        self.device = device
        self.model = new_model(plan, PreTrainedTokenizerFast.from_pretrained(tokenizer)).to(device)
        self.optimizers = optimizers(self.model, plan)
        on_gpu = device.type == "cuda"
        # Compiled steps are a third faster, but need a C++ compiler.
        compiled = not on_gpu and shutil.which("c++") is not None and plan.tokens > 1e6
        self.losses = torch.compile(losses, dynamic=False) if compiled else losses
        self.learn = Replay(self._learn) if on_gpu else self._learn
        self.rate = -1.0
        self.weights = torch.tensor(list(WEIGHTS.values()), device=device)
        self.read = torch.zeros(2, len(TASKS), device=device)  # nats and targets since the last log
        self.step, self.spent, self.tokens = 0, 0.0, 0
        self.average = [p.detach().clone() for p in self.model.parameters()]
        if (out / "state.json").exists():
            self._restore()
        sources = range(plan.sources)[rank::world]
        self.supply = Supply(plan, tokenizer, sources, self.step, self.tokens)

    def run(self, stop_after_s: float | None = None) -> None:
        """Train until the plan's tokens are read, or for one slice of seconds."""
        begun = saved = last = self._clock()
        batches = self._batches()
        with Progress(disable=self.rank > 0) as progress, self._stream():
            bar = progress.add_task("pretraining", total=self.plan.tokens, completed=self.tokens)
            while self.tokens < self.plan.tokens:
                self._step(*next(batches))
                now = self._clock()
                self.spent += now - last
                last = now
                progress.update(bar, completed=self.tokens)
                if self.rank == 0 and self.step % 50 == 0:
                    self._log()
                if now - saved > self.plan.save_every_s:
                    self._save()
                    saved = now
                if stop_after_s is not None and now - begun > stop_after_s:
                    break
        self._save()

    def _stream(self) -> Any:
        """Leave the default CUDA stream, on which nothing can be recorded."""
        if self.device.type != "cuda":
            return nullcontext()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(stream)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one step's rows, int32 [5, rows, WIDTH], and the flat places of its targets."""
        for laid in steps(self.supply, self.device):
            yield from zip(laid.unbind(1), find_targets(laid[3]), strict=True)

    def _clock(self) -> float:
        """Return rank 0's clock, so that all processes stop and save at the same step."""
        now = torch.tensor(time.monotonic(), dtype=torch.float64)
        if self.world > 1:
            dist.broadcast(now, 0)
        return float(now)

    def _step(self, laid: Tensor, at: Tensor) -> None:
        # The rate falls little: at a low one new items can't be stored, and the model would learn
        # that names can't be known. Averaging steadies the weights in its place.
        rate = min(1.0, self.tokens / self.plan.warmup + 0.01) * self.plan.rate(self.tokens)
        if rate != self.rate:
            self.rate = rate
            for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
                group["lr"] = group["peak"] * rate
            if isinstance(self.learn, Replay):
                self.learn.forget()
        self.learn(laid, at)
        self.step += 1
        kept = min(self.plan.averaged, self.step / (self.step + 9))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - kept)
        self.tokens += laid[0].numel() * self.world

    def _learn(self, laid: Tensor, at: Tensor) -> None:
        nats = self.losses(self.model, laid, at)
        labels, tasks = (laid[field].flatten()[at] for field in (3, 4))
        real = (labels >= 0).float()
        weights = self.weights[tasks] * real
        (nats @ weights / weights.sum()).backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.read.index_add_(1, tasks, torch.stack([nats.detach() * real, real]))

    def _share_gradients(self) -> None:
        if self.world == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _log(self) -> None:
        nats, targets = self.read.tolist()
        read = sorted(zip(TASKS, nats, targets, strict=True))
        means = {task: round(sum_ / count, 3) for task, sum_, count in read if count}
        line = {"step": self.step, "minutes": round(self.spent / 60, 2), "tokens": self.tokens}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | means) + "\n")
        self.read.zero_()

    def _save(self) -> None:
        if self.rank == 0:
            named = list(self.model.named_parameters())
            tensors = {f"model.{n}": p.detach() for n, p in named}
            tensors |= {f"average.{n}": a for (n, _), a in zip(named, self.average, strict=True)}
            for i, optimizer in enumerate(self.optimizers):
                for key, state in optimizer.state_dict()["state"].items():
                    tensors |= {f"optimizer.{i}.{key}.{n}": t for n, t in state.items()}
            _replace(self.out / "state.safetensors", tensors)
            state = {"step": self.step, "spent": self.spent, "tokens": self.tokens}
            temporary = self.out / "state.json.new"
            temporary.write_text(json.dumps(state | {"plan": asdict(self.plan)}))
            temporary.rename(self.out / "state.json")

    def _restore(self) -> None:
        state = json.loads((self.out / "state.json").read_text())
        self.step, self.spent, self.tokens = state["step"], state["spent"], state["tokens"]
        tensors = load_file(self.out / "state.safetensors")
        with torch.no_grad():
            for place, (name, parameter) in enumerate(self.model.named_parameters()):
                parameter.copy_(tensors[f"model.{name}"])
                self.average[place] = tensors[f"average.{name}"].to(self.device)
        for i, optimizer in enumerate(self.optimizers):
            loaded = optimizer.state_dict()
            states: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer.{i}."):
                    _, _, key, part = name.split(".")
                    states.setdefault(int(key), {})[part] = tensor
            optimizer.load_state_dict({"state": states, "param_groups": loaded["param_groups"]})


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".new")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.rename(path)


def start(
    rank: int,
    world: int,
    out: Path,
    plan: Plan,
    tokenizer: str,
    slice_s: float | None,
    device: str,
) -> None:
    """Run one process of the training; torch.multiprocessing calls it once per rank."""
    alone = world == 1 and device == "cpu"
    torch.set_num_threads(max(1, os.cpu_count() or 1) if alone else 1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{out.resolve()}/rendezvous", rank=rank, world_size=world
        )
    Trainer(out, plan, Path(tokenizer), rank, world, torch.device(device)).run(slice_s)
    if world > 1:
        dist.destroy_process_group()
