"""Weights laid out once for oneDNN, for models that only answer on a CPU.

Plain float32 layers multiply by the BLAS that PyTorch was built with, which leaves half of what
many CPUs can do; oneDNN's kernels don't, and needn't lay out the weights again at every step.
"""

import torch
from torch import Tensor, nn


class PrepackedLinear(nn.Linear):
    """A linear layer in oneDNN's layout; its weights can be neither read nor trained."""

    def __init__(self, dense: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(dense.weight.detach())
        self.register_buffer("weight", packed, persistent=False)
        self.bias = dense.bias

    def forward(self, states: Tensor) -> Tensor:
        """Return the product, as ``nn.Linear`` does."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.weight, self.bias, "none", [], ""
        )
        return product


def prepack(model: nn.Module) -> None:
    """Lay out a model's float32 linear layers, in place; on other devices nothing is done."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and _fits(layer.weight):
                setattr(parent, name, PrepackedLinear(layer))


def _fits(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )
