"""Measurements of speed, each a module to run: `python -m experiments.bench.update`."""
