"""`embodied prompt MODEL --reward TEXT` (or --task, --goal, --state, --row) and `embodied prompt check FILE MODEL`."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from embodied import promptfile
from embodied.promptfile import Request
from embodied.search import Search
from embodied.types import InputError
from experiments import prompt
from experiments.models import resolve


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A latent for a trained policy, with provenance. Exactly one of reward, task, goal, state, row says what for."""

    model: tyro.conf.Positional[str]  # shipped model or run directory, see `embodied list models`
    reward: str | None = None  # text over named quantities, e.g. "tolerance(torso_height, 1.2, inf, 0.6)"
    task: str | None = None  # named task of the world
    goal: str | None = None  # quantities to reach, e.g. "x=0.1, y=-0.2"
    state: Path | None = None  # physics vector to reach, .npy or a JSON list
    row: int | None = None  # row of the policy's buffer to reach, or of a dataset's states in order
    data: Path | None = None  # dataset directory that --row is a row of
    out: Path = Path("prompt.json")  # prompt file to write
    inference: Literal["plain", "ridge", "softmax", "auto"] = "plain"  # see docs/prompting.md
    samples: int = 10_000  # buffer states that a reward is relabelled on
    width: float = 0.25  # of a goal, in standard deviations of each quantity over the buffer
    ridge: float = 1e-3  # of ridge and softmax inference, times the mean feature variance
    temperature: float = 10.0  # of softmax inference, over the range of the reward
    seed: int = 0  # of the choice of samples
    bootstraps: int = 0  # further latents from resampled states, the most promising one acts at every step (GPI)
    search: Literal["cem", "gradient"] | None = None  # move the latent in the simulator, see docs/prompting.md
    iterations: int = Search.iterations  # of a search
    population: int = Search.population  # of a search: candidates per iteration
    elites: int = Search.elites  # of a search: best candidates that cem averages
    starts: int = Search.episodes  # of a search: episodes per candidate
    horizon: int = Search.horizon  # of a search: control steps per episode, 0 = all
    terminal: bool = Search.terminal  # of a search: add the agent's value behind the horizon (LoLA)
    spread: float = Search.spread  # of a search: first perturbations, in lengths of the latent
    trust: float = Search.trust  # of a search: largest angle to the inferred latent, in degrees
    search_seed: int = Search.seed  # of a search: its start states and perturbations
    episodes: int = 10  # evaluated at once, on starts that no search sees; 0 = do not evaluate
    video: Annotated[Path | None, tyro.conf.arg(help="mp4 of the first episode")] = None


@dataclasses.dataclass(frozen=True)
class Check:
    """Infers a prompt file's latent again and compares it bit for bit."""

    file: tyro.conf.Positional[Path]  # prompt file
    model: tyro.conf.Positional[str]  # the policy it was made with


def main(arguments: list[str]) -> None:
    """Prompts, scores and writes the prompt file; or checks one."""
    if arguments[:1] == ["check"]:
        checked = tyro.cli(Check, args=arguments[1:], prog="embodied prompt check")
        policy, env = resolve(checked.model)
        promptfile.check(checked.file, policy, env)
        print(f"{checked.file}: the latent follows bit for bit from model {policy.sha256[:12]} and its buffer")
        return
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied prompt")
    if chosen.episodes < 0:
        raise InputError(f"episodes: must be at least 0, got {chosen.episodes}")
    if chosen.video and not chosen.episodes:
        raise InputError("video: shows the first episode; give --episodes 1 or more")
    replaced = chosen.out.exists()
    request = _request(chosen)
    policy, env = resolve(chosen.model)
    if chosen.data is not None:
        state = prompt.state_of_row(chosen.data, policy.world, request.row)
        request = dataclasses.replace(request, kind="state", row=-1, state=state)
    samples = min(request.samples, len(policy.buffer.physics))
    request = dataclasses.replace(request, samples=samples)
    _, scores, trajectory = prompt.run(policy, env, request, chosen.out, chosen.episodes)
    for warning in scores.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    _print_returns(scores, env.spec.episode_length)
    if "distance" in scores:
        row = scores["distance"]
        print(
            f"distance to the goal  {row['start']:.2f} at the start, {row['closest']:.2f} at its closest, "
            f"{row['end']:.2f} at the end   (medians of {chosen.episodes} episodes, in standard deviations of the data)"
        )
    print(f"{'replaced' if replaced else 'wrote'} {chosen.out}")
    print(f"check it:  embodied prompt check {chosen.out} {chosen.model}")
    if chosen.video and trajectory is not None:
        from experiments.video import record

        made = record(env, trajectory.physics[0], "", chosen.video)
        print(f"wrote {made}" if made else "no video")


def _print_returns(scores: Mapping[str, Any], length: int) -> None:
    if "chosen" in scores:
        print("chosen            " + ", ".join(f"{name} {value}" for name, value in scores["chosen"].items()))
    if "agreement" in scores:
        print(f"agreement         {scores['agreement']:8.3f}   (mean cosine of latents from resampled states)")
    if "search" in scores:
        first, *_, last = progress = scores["search"]["progress"]
        print(
            f"searched          {max(progress):8.1f}   best of {scores['search']['rollouts']} rollouts, {first:.1f} at "
            f"the start, {last:.1f} at the end, on starts of its own"
        )
    if "predicted_return" in scores:
        print(f"predicted return  {scores['predicted_return']:8.1f}   (from the agent's own value)")
    for name in ("plain", "evaluated"):
        row = scores.get(f"{name}_return")
        if row:
            print(
                f"{name + ' return':<18}{row['iqm']:8.1f}   IQM of {row['episodes']} episodes, 95 % interval "
                f"[{row['low']:.1f}, {row['high']:.1f}], at most {length} per unit of reward"
            )
            if "success" in row:
                rate, low, high = (100 * row[part] for part in ("success", "success_low", "success_high"))
                print(f"{'':<18}{rate:8.0f} % solved, 95 % interval [{low:.0f}, {high:.0f}]")


def _request(chosen: Arguments) -> Request:
    given = [name for name in ("reward", "task", "goal", "state", "row") if getattr(chosen, name) is not None]
    if len(given) != 1:
        raise InputError(
            f"prompt: give exactly one of --reward, --task, --goal, --state, --row; got {', '.join(given) or 'none'}"
        )
    kind = given[0]
    if chosen.data is not None and kind != "row":
        raise InputError(f"data: goes with --row, got --{kind}")
    names = ("width", "samples", "seed", "inference", "ridge", "temperature", "bootstraps")
    shared: dict[str, Any] = {name: getattr(chosen, name) for name in names}
    shared["search"] = _search(chosen)
    match kind:
        case "goal":
            return Request("goal", goal=prompt.parse_goal(chosen.goal or ""), **shared)
        case "state":
            assert chosen.state is not None
            return Request("state", state=prompt.parse_state(chosen.state), **shared)
        case "row":
            return Request("row", row=chosen.row, **shared)
        case "task":
            return Request("task", text=chosen.task or "", **shared)
    return Request("reward", text=chosen.reward or "", **shared)


def _search(chosen: Arguments) -> Search | None:
    """What to search with. Raises InputError for fields of a search where none is asked for."""
    other = {"episodes": "starts", "seed": "search_seed"}
    flags = {field.name: other.get(field.name, field.name) for field in dataclasses.fields(Search)}
    given = {name: getattr(chosen, flag) for name, flag in flags.items() if name != "method"}
    if chosen.search is not None:
        return Search(chosen.search, **given)
    for name, value in given.items():
        if value != getattr(Search, name):
            raise InputError(f"{flags[name]}: goes with --search, got {value} without one")
    return None
