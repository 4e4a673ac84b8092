"""`embodied sim2sim BUNDLE`: returns of a bundle in plain MuJoCo, as it is and with a robot that differs."""

import dataclasses
import shlex
import time
from pathlib import Path

import tyro

from embodied.deploy.bundle import load
from experiments import sim2sim
from experiments.results import write_result


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Closes the loop of a bundle over many episodes and sets the returns beside those of the training world."""

    bundle: tyro.conf.Positional[Path]
    prompt: tuple[str, ...] = ()  # prompts of the bundle; without any all that ask for a reward
    condition: tuple[str, ...] = tuple(sim2sim.CONDITIONS)  # names of `sim2sim.CONDITIONS`
    episodes: int = 100
    seconds: float | None = None  # simulated, of an episode; without it as long as in training
    video: Path | None = None  # mp4 of the first prompt, its conditions side by side
    out: Path | None = None  # result file: the numbers, and how they were made


def main(arguments: list[str]) -> None:
    """Simulates and prints."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied sim2sim")
    started = time.perf_counter()
    bundle = load(chosen.bundle)
    prompts = chosen.prompt or tuple(name for name in bundle.prompts if sim2sim.is_reward(bundle, name))
    results = sim2sim.run(bundle, prompts, chosen.condition, chosen.episodes, chosen.seconds)
    print(sim2sim.table(bundle, results))
    print(
        f"returns per episode of training: IQM and 95 % bootstrap interval of {chosen.episodes} episodes\n"
        "down: torso tilted over 60 degrees at the end, 95 % Wilson interval"
    )
    if chosen.out:
        command = shlex.join(["embodied", "sim2sim", *arguments])
        wall, model = time.perf_counter() - started, bundle.manifest.get("model_sha256")
        write_result(chosen.out, command, sim2sim.summary(bundle, results), [0], wall, model_sha256=model)
        print(f"wrote {chosen.out}")
    if chosen.video and sim2sim.video(bundle, results, chosen.video):
        print(f"wrote {chosen.video}")
