"""The trainer against a plain loop: time, memory, steps to the same proof, arithmetic, scale."""
