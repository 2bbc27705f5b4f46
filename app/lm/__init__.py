"""The language-model runtime: checkpoint store, loading, generation, engine."""

import os

# Engine and trainer share a machine's cores. GNU OpenMP's threads wait for one another by spinning,
# which on busy cores makes a small model 10 to 50 times slower; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
