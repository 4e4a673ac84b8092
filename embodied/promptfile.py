"""Prompt files: a latent with everything needed to infer it again, bit for bit.

A request says what is wanted (a reward text, a named task, a goal) and how it is inferred; the file adds the latent,
the hashes of model and buffer, and the returns that were predicted and measured. A request may also ask for a search in
the simulator, which gives one latent as every other does, or for several latents, which only this library acts with.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from embodied.deploy.files import from_json, read_json
from embodied.gpi import Ensemble, ensemble
from embodied.policy import Policy, Prompted
from embodied.prompts import check_solver, effective_samples, settle, softmax_weight, unit_range
from embodied.ranges import check_ranges
from embodied.rewards import Task, is_constant
from embodied.search import Search, in_simulator, search
from embodied.types import Env, Goal, InputError, Prior, Prompt, Quantities, Reward, nearest

Kind = Literal["reward", "task", "goal", "state", "row"]
RANGES = {"[0, 4294967296)": ("seed",), "(0, inf)": ("width",), "[0, 64]": ("bootstraps",)}
FEW = 50  # effective samples below which `cautions` warns


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a policy."""

    kind: Kind
    text: str = ""  # reward text, or the name of a task
    goal: Mapping[str, float] = dataclasses.field(default_factory=dict)  # quantity -> wanted value (kind "goal")
    state: tuple[float, ...] = ()  # physics vector (kind "state")
    row: int = -1  # of the buffer (kind "row")
    width: float = 0.25  # of a goal's reward, in standard deviations of each quantity over the buffer
    samples: int = 10_000  # buffer rows that a reward is relabelled on
    seed: int = 0  # of the choice of rows
    inference: str = "plain"  # "plain", "ridge", "softmax" or "auto"
    ridge: float = 1e-3
    temperature: float = 10.0  # of softmax, over the range of the reward
    bootstraps: int = 0  # further latents, each from resampled rows, to choose among at every step
    search: Search | None = None  # in the simulator, from the inferred latent

    def __post_init__(self) -> None:
        check_ranges("prompt", self, RANGES)
        check_solver("prompt", self)
        for name in ("bootstraps", "search"):
            if getattr(self, name) and self.kind in ("state", "row"):
                raise InputError(f"prompt: {name} needs a reward; a {self.kind} prompt has none")
        if self.bootstraps and self.search:
            raise InputError("prompt: bootstraps must be 0 with a search, which moves a single latent")


@dataclasses.dataclass(frozen=True)
class PromptFile:
    """What a prompt file holds."""

    request: Request
    z: Any  # float32 [D], or [T, D] for a motion; in the file lists of numbers
    world: str
    agent: str
    model_sha256: str
    buffer_sha256: str
    scores: Mapping[str, Any]
    request_sha256: str


def reward_task(request: Request, env: Env, quantities: Quantities) -> Task | None:
    """The task that a request amounts to, or None for goals given as observations."""
    declared = env.spec.quantities
    match request.kind:
        case "reward":
            return Task.of("prompt", request.text, declared)
        case "task":
            if request.text not in env.tasks:
                raise InputError(
                    f"task: world '{env.spec.name}' has no task '{request.text}'; {nearest(request.text, env.tasks)}"
                )
            return env.tasks[request.text]
        case "goal":
            return Task.of("prompt", goal_text(request.goal, env, quantities, request.width), declared)
    return None


def goal_text(goal: Mapping[str, float], env: Env, quantities: Quantities, width: float) -> str:
    """A reward text with a bump of the given relative width at the wanted value of each quantity."""
    if not goal:
        raise InputError("goal: names no quantity; write for example x=0.1,y=-0.2")
    terms = []
    for name, value in goal.items():
        declared = env.spec.quantities.get(name)
        if declared is None:
            raise InputError(f"goal: unknown quantity '{name}'; {nearest(name, env.spec.quantities)}")
        if declared.shape:
            raise InputError(f"goal: quantity '{name}' has shape {declared.shape}; name scalar quantities")
        if not np.isfinite(value):
            raise InputError(f"goal: the value of '{name}' must be finite, got {value}")
        scale = max(width * float(np.std(quantities[name])), 1e-6)
        terms.append(f"(({name} - ({value!r})) / {scale:.9f}) ** 2")
    return f"exp(-0.5 * ({' + '.join(terms)}))"


def make_prompt(request: Request, policy: Policy, env: Env) -> tuple[Prompt, Task | None]:
    """The prompt of a request, relabelled on the policy's buffer, and its task if it has one.

    An agent that takes goals and no rewards is sent to the sampled state that the reward pays most.
    """
    rows = len(policy.buffer.physics)
    if request.kind == "state":
        if not env.spec.takes(len(request.state)):
            raise InputError(
                f"goal state: must have {env.spec.physics} numbers (the physics vector of world "
                f"'{env.spec.name}'), got {len(request.state)}"
            )
        obs, _ = env.observe(np.asarray(request.state, np.float64)[None])
        return Goal({name: jnp.asarray(leaf[0]) for name, leaf in obs.items()}), None
    if request.kind == "row":
        if not 0 <= request.row < rows:
            raise InputError(f"row: must be in [0, {rows}), the rows of the policy's buffer, got {request.row}")
        return Goal({name: jnp.asarray(leaf[request.row]) for name, leaf in policy.buffer.obs.items()}), None
    chosen, quantities = _sample(request, policy, env)
    task = reward_task(request, env, quantities)
    assert task is not None
    if task.previous:
        raise InputError(
            f"reward text: reads '{task.previous[0]}', but a prompt sees single states; say what changes by a "
            f"velocity quantity of world '{env.spec.name}'"
        )
    reward = np.asarray(task(None, None, quantities), np.float64)
    if is_constant(reward):
        raise InputError(
            f"reward text: is constant ({float(reward[0]):g}) over the {len(chosen)} sampled states, so it asks for "
            "nothing; widen its margins"
        )
    obs = {name: jnp.asarray(leaf[chosen]) for name, leaf in policy.buffer.obs.items()}
    if Reward not in policy.agent.prompts and Goal in policy.agent.prompts:
        if request.search or request.bootstraps:
            raise InputError(f"prompt: search and bootstraps need rewards; '{policy.agent_name}' takes goals alone")
        best = int(np.argmax(reward))
        return Goal({name: leaf[best] for name, leaf in obs.items()}), task
    solver = (request.inference, request.ridge, request.temperature)
    return Reward(obs, jnp.asarray(reward, jnp.float32), *solver), task


def cautions(prompt: Prompt) -> list[str]:
    """What looks wrong with the inference of a prompt, one warning per line; often empty."""
    if not isinstance(prompt, Reward) or prompt.inference != "softmax":
        return []
    weight = softmax_weight(unit_range(prompt.reward), prompt.temperature)
    count = float(effective_samples(weight))
    if count >= FEW:
        return []
    return [
        f"softmax inference rests on {count:.3g} effective samples of {len(weight)}; lower the temperature "
        f"({prompt.temperature:g}) or sample more states"
    ]


def _sample(request: Request, policy: Policy, env: Env) -> tuple[np.ndarray, Quantities]:
    """(rows of the buffer, their quantities) that a reward is relabelled on."""
    rows, width = policy.buffer.physics.shape
    if not env.spec.takes(width):
        carry = f"a physics vector of {width} numbers, not {env.spec.physics}," if width else "no physics vector,"
        raise InputError(
            f"buffer: its states carry {carry} so no reward can be computed on them; prompt with --row, or train on "
            "data with 'physics'"
        )
    if not 1 <= request.samples <= rows:
        raise InputError(f"samples: must be in [1, {rows}], the size of the policy's buffer, got {request.samples}")
    chosen = np.random.Generator(np.random.PCG64(request.seed)).permutation(rows)[: request.samples]
    return chosen, env.observe(policy.buffer.physics[chosen].astype(np.float64))[1]


def infer(request: Request, policy: Policy, env: Env) -> tuple[Prompted | Ensemble, Task | None]:
    """The prompted policy of a request, and its task if it has one."""
    prompt, task = make_prompt(request, policy, env)
    return answer(request, prompt, task, policy, env)[0], task


def answer(
    request: Request, prompt: Prompt, task: Task | None, policy: Policy, env: Env
) -> tuple[Prompted | Ensemble, dict[str, Any]]:
    """The prompted policy for what `make_prompt` returned, and what was chosen or found on the way."""
    if not isinstance(prompt, Reward):
        return policy.prompt(prompt, request.seed), {}
    notes: dict[str, Any] = {}
    settled = settle(prompt, lambda one: policy.prompt(one, request.seed).z)
    if settled is not prompt:
        chosen = {"ridge": ("ridge",), "softmax": ("ridge", "temperature")}.get(settled.inference, ())
        notes["chosen"] = {name: getattr(settled, name) for name in ("inference", *chosen)}
    if request.bootstraps:
        return ensemble(policy, settled, request.bootstraps, request.seed), notes
    prompted = policy.prompt(settled, request.seed)
    if request.search is None:
        return prompted, notes
    assert task is not None
    found = search(in_simulator(policy, env, settled, task, request.search), prompted.z, request.search)
    notes["search"] = {"progress": list(found.progress), "rollouts": found.rollouts}
    return Prompted(policy, found.z), notes


def describe(request: Request, prompted: Prompted | Ensemble, scores: Mapping[str, Any]) -> PromptFile:
    """What a prompt file of this latent holds. float32 latents survive JSON exactly."""
    policy = prompted.policy
    return PromptFile(
        request=request,
        z=np.asarray(prompted.z, np.float64).tolist(),
        world=policy.world,
        agent=policy.agent_name,
        model_sha256=policy.sha256,
        buffer_sha256=policy.buffer.sha256,
        scores=dict(scores),
        request_sha256=_digest(dataclasses.asdict(request)),
    )


def save(path: Path, request: Request, prompted: Prompted | Ensemble, scores: Mapping[str, Any]) -> None:
    """Nothing; writes the prompt file."""
    body = describe(request, prompted, scores)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(body), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> PromptFile:
    """The content of a prompt file. Raises InputError naming what is missing, of the wrong kind, or was changed."""
    raw = read_json(Path(path), "a prompt file")
    content = from_json(PromptFile, raw, f"{path}")
    if _digest(raw["request"]) != content.request_sha256:
        raise InputError(f"{path}: the request was changed after the latent was inferred; prompt again")
    try:
        z = np.asarray(content.z)
    except ValueError:  # rows of different lengths
        z = np.zeros((), object)
    if z.dtype.kind not in "if" or z.ndim not in (1, 2) or not np.isfinite(z).all():
        raise InputError(f"{path}: field 'z' must be a list of finite numbers, or of such lists of one length")
    return dataclasses.replace(content, z=z.astype(np.float32))


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def load(path: Path, policy: Policy, env: Env) -> tuple[Prompted, Task | None]:
    """The prompted policy that a file describes, and the task it was prompted with if that was a reward.

    Raises InputError where the file was made with another model or buffer, or holds latents to choose among.
    """
    prompted, task = load_any(path, policy, env)
    if isinstance(prompted, Ensemble):
        raise InputError(
            f"{path}: holds {len(prompted.z)} latents to choose among at every step, which `embodied evaluate` and "
            "`Ensemble.act` alone can do; prompt again with bootstraps 0"
        )
    return prompted, task


def load_any(path: Path, policy: Policy, env: Env) -> tuple[Prompted | Ensemble, Task | None]:
    """As `load`, and for a file of several latents the ensemble that chooses among them."""
    content = read(path)
    hashes = {"model_sha256": policy.sha256, "buffer_sha256": policy.buffer.sha256}
    for field, ours in hashes.items():
        theirs = getattr(content, field)
        if theirs != ours:
            raise InputError(f"{path}: {field} is {theirs[:12]}..., this policy has {ours[:12]}...")
    width = jax.eval_shape(policy.agent.prompt, policy.params, Prior(), jax.random.key(0)).shape[-1]
    if content.z.shape[-1] != width:
        raise InputError(f"{path}: field 'z' must have {width} numbers per latent, got {content.z.shape[-1]}")
    request = content.request
    if not request.bootstraps:
        if request.kind in ("state", "row"):
            return Prompted(policy, content.z), None
        return Prompted(policy, content.z), reward_task(request, env, _sample(request, policy, env)[1])
    if content.z.shape != (1 + request.bootstraps, width):
        shape = (1 + request.bootstraps, width)
        raise InputError(f"{path}: field 'z' must have shape {shape} for its bootstraps, got {content.z.shape}")
    prompt, task = make_prompt(request, policy, env)
    assert isinstance(prompt, Reward)
    return Ensemble(policy, content.z, prompt), task


def check(path: Path, policy: Policy, env: Env) -> None:
    """Nothing; raises InputError unless the file's latents follow, bit for bit, from this model and buffer."""
    z = load_any(path, policy, env)[0].z
    again, _ = infer(read(path).request, policy, env)
    if not np.array_equal(again.z, z):
        gap = float(np.abs(again.z - z).max()) if again.z.shape == z.shape else float("nan")
        raise InputError(f"{path}: the latent does not follow from its request (largest difference {gap:g})")
