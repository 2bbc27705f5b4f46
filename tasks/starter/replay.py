"""CUDA graphs of whole training steps."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]


class Replay:
    """Repeats a step on a GPU without launching its kernels one by one, which takes most of it.

    The first step of a shape runs as it is, so that all that is made once is there; the second is
    recorded. What isn't a tensor, such as a rate, is recorded with it.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None] = {}

    def __call__(self, laid: Tensor, at: Tensor) -> None:
        """Take a step on these inputs."""
        if at.shape not in self.graphs:
            self.graphs[at.shape] = None
            self.step(laid, at)
            return
        recorded = self.graphs[at.shape] or self._record(laid.clone(), at.clone())
        self.graphs[at.shape] = recorded
        graph, *inputs = recorded
        for place, given in zip(inputs, (laid, at), strict=True):
            place.copy_(given)
        graph.replay()

    def forget(self) -> None:
        """Drop what was recorded: a rate has changed."""
        self.graphs.clear()

    def _record(self, laid: Tensor, at: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        # Other threads, which bring in the next rows, go on calling CUDA meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.step(laid, at)
        return graph, laid, at
