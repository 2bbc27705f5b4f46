"""Measure serving on this machine: ``python -m tasks.bench.serving``; ``make bench-serving``.

Starts one engine and two API processes over a temporary folder with the starter model, measures
what docs/performance.md promises, prints it and writes it there.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from tasks.bench import measures
from tasks.bench.deployment import deployed
from tasks.bench.figures import FULL, QUICK, Figure, Sizes
from tasks.bench.memory import memory
from tasks.bench.page import put, section
from tasks.bench.swaps import swaps


async def measure(folder: Path, sizes: Sizes) -> list[Figure]:
    """Run every measure, one after the other; return the figures in the table's order."""
    figures: list[Figure] = []
    with deployed(folder, versions=4, apis=2, threads=sizes.threads) as running:
        for work in (
            measures.throughput,
            swaps,
            measures.overlay,
            measures.overhead,
            memory,
            measures.killed,
        ):
            started = time.monotonic()
            found = await work(running, sizes)
            figures += found
            for figure in found:
                sys.stdout.write(figure.row() + "\n")
            sys.stdout.write(f"  ({work.__name__}: {time.monotonic() - started:.0f} s)\n")
            sys.stdout.flush()
    return figures


def about(sizes: Sizes, load: float) -> str:
    """Say what was run, where and when."""
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    return (
        f"Starter model on {os.cpu_count()} CPU cores ({platform.machine()}), SQLite, one engine "
        f"process ({sizes.threads} threads), two API processes and the clients on one machine; "
        f"{now}, load average before the run {load:.1f}. Run it with `make bench-serving`."
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tasks.bench.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a little of each, nothing written")
    given = parser.parse_args(arguments)
    sizes = QUICK if given.quick else FULL
    torch.set_num_threads(sizes.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="almanac-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), sizes))
    if not given.quick:
        put("serving", section("Serving", about(sizes, load), figures))
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
