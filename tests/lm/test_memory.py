"""What a training process frees serves it again, so that the kernel needn't clear new pages."""

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
torch.ones(64 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.ones(64 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told so")
def test_freed_memory_is_used_again() -> None:
    found = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    once = (64 << 20) // PAGE
    assert int(found.stdout) < once / 10
