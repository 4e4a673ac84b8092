"""What must be settled before JAX is imported, the same in every test process and in what they start."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MUJOCO_GL", "disable")
# Two devices, so that sharded code really shards.
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
# An accidental [B] - [B, 1] is an error. MJX relies on it: `jax.numpy_rank_promotion("allow")` around it.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Shared by all test processes: an entry read while another process writes it is compiled again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Tests compile much and compute little.
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
]
if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes already fill the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FLAGS.append("--xla_cpu_multi_thread_eigen=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Compiled programs of one file are of no use to the next, and would fill the memory."""
    yield
    import jax

    jax.clear_caches()
