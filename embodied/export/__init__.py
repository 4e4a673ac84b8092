"""Trained functions as files for other runtimes: ONNX for robots, StableHLO for other programs that run JAX."""
