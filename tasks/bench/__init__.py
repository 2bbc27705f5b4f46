"""Benchmarks of the main job, the ledger and serving."""

import app.lm  # noqa: F401 - its setting for OpenMP, under which the engine runs, must precede torch
