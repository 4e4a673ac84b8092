"""The runtime of bundles on a robot. Needs numpy and onnxruntime; the simulated robot also needs mujoco."""
