"""Seconds until a fresh process has made its first updates, with no compilation cache to draw on.

    python -m experiments.bench.cold PRESET BATCH

prints them as JSON; `experiments.bench.update` runs it in a process of its own. Imports are counted apart.
"""

import json
import os
import subprocess
import sys
import time

UPDATES = 2
_STARTED = time.perf_counter()


def first_updates(preset: str, batch: int) -> dict[str, float]:
    """{"imports", "init", "compile", "updates", "total"} in seconds; the total leaves the imports out."""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "experiments.bench.cold", preset, str(batch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(preset: str, batch: int) -> dict[str, float]:
    """What `first_updates` returns, measured in this process."""
    import jax

    import agents
    from embodied.data import dataset
    from embodied.train import init_run, make_chunk
    from experiments.bench.synthetic import WALKER, transitions
    from experiments.presets import PRESETS
    from experiments.train import agent_name

    source = dataset.from_dataset(transitions(2, 50), batch)
    moments = [_STARTED, time.perf_counter()]
    agent = agents.module(agent_name(PRESETS[preset])).make(PRESETS[preset].agent, WALKER)
    run = jax.block_until_ready(init_run(agent, source, WALKER.example(), seed=0))
    moments.append(time.perf_counter())
    root = jax.random.key(0)
    chunk = make_chunk(agent, source, UPDATES).lower(source.data, run, root).compile()
    moments.append(time.perf_counter())
    jax.block_until_ready(chunk(source.data, run, root))
    moments.append(time.perf_counter())
    names = ("imports", "init", "compile", "updates")
    seconds = {name: after - before for name, before, after in zip(names, moments, moments[1:], strict=False)}
    return seconds | {"total": moments[-1] - moments[1]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
