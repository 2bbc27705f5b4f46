"""A training process uses again what it frees, and keeps little for each shape of batch."""

import platform
import subprocess
import sys

import pytest

PAGE = 4096
WORK = """
import resource
import torch
from app.lm.memory import reuse_memory

reuse_memory()
for _ in range(5):  # until it has its place
    torch.ones(64 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.ones(64 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

SHAPES = """
import resource
import torch
from torch.nn.functional import linear
from app.lm.memory import bound_cache

bound_cache()
weights = torch.zeros(432, 160, dtype=torch.bfloat16, requires_grad=True)

def peak(rows):
    linear(torch.zeros(rows, 160, dtype=torch.bfloat16), weights).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

print(-peak(1000) + max(map(peak, range(500, 1000, 2))))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told so")
def test_freed_memory_is_used_again() -> None:
    found = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    # A kernel short of memory takes pages away meanwhile; cleared anew it would be a hundred times.
    assert int(found.stdout) < (64 << 20) // PAGE


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere peak memory has another unit")
def test_memory_does_not_grow_with_the_shapes_of_batches() -> None:
    command = [sys.executable, "-c", SHAPES]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 150, "MiB; where bfloat16 has kernels 394 unbound, 243 half so"
