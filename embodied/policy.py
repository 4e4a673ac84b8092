"""What a trained agent is for a user: a folder of plain files, a `Policy` that may be prompted, a `Prompted` that acts.

Folder: config.json (agent, its configuration, world), spec.json (shapes and statistics), params.npz, buffer.npz (states
that reward prompts are inferred on), card.md. Nothing in it is code and nothing is pickled. The hash of a policy covers
all that decides how it acts: agent, configuration, spec, world, options and parameters; the buffer has its own.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from embodied.deploy.files import from_json, read_json, read_npz, write_json
from embodied.prompts import check_solver
from embodied.types import Agent, Goal, InputError, Obs, Prompt, Reward, Spec, obs_type

FORMAT = 1  # of the folder; readers refuse newer ones
FOLDER = "the folder of a trained policy"


@dataclasses.dataclass(frozen=True)
class Buffer:
    """States that an agent has seen: rows in which reward prompts are relabelled."""

    obs: Mapping[str, np.ndarray]  # leaves [N, ...]
    physics: np.ndarray  # [N, P]

    @functools.cached_property
    def sha256(self) -> str:
        """Content hash, for provenance."""
        return _digest({"physics": self.physics, **{f"obs/{k}": v for k, v in self.obs.items()}})


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained agent without a task. Prompt it to get something that acts."""

    agent_name: str
    config: Any  # the agent's Config
    spec: Spec
    world: str
    options: Mapping[str, Any]  # of the world, such as hold
    params: PyTree
    buffer: Buffer

    @functools.cached_property
    def agent(self) -> Agent:
        """The pure functions."""
        return _agents().module(self.agent_name).make(self.config, self.spec)

    @functools.cached_property
    def params_sha256(self) -> str:
        """Content hash of the parameters alone; tells which file of a folder was changed."""
        return _digest(_flatten(self.params))

    @functools.cached_property
    def sha256(self) -> str:
        """Content hash of all but the buffer, for provenance; of a loaded policy, as it was when it was saved."""
        return _identity(self._head(), dataclasses.asdict(self.spec))

    def prompt(self, prompt: Prompt, seed: int = 0) -> "Prompted":
        """The policy with a latent. Raises InputError for a prompt of the wrong shape or of a kind not taken."""
        if not isinstance(prompt, self.agent.prompts):
            *rest, last = [kind.__name__ for kind in self.agent.prompts]
            taken = f"{', '.join(rest)} or {last}" if rest else last
            raise InputError(f"prompt: {self.agent_name} takes {taken} prompts, got {type(prompt).__name__}")
        check_prompt(prompt, self.spec)
        z = self.agent.prompt(self.params, prompt, jax.random.key(seed))
        if not np.isfinite(np.asarray(z)).all() or (np.size(z) and not np.any(z)):
            raise InputError(
                "prompt: gives no latent (the reward is constant over the buffer, or a value is not finite)"
            )
        return Prompted(self, np.asarray(z))

    def save(self, directory: Path, card: str = "") -> None:
        """Nothing; writes the folder, complete or not at all; an older one is kept aside until this one is in place."""
        directory = Path(directory)
        temporary = directory.with_name(directory.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        head, spec = self._head(), dataclasses.asdict(self.spec)
        head = dataclasses.replace(head, sha256=_identity(head, spec))
        write_json(temporary / "config.json", dataclasses.asdict(head))
        write_json(temporary / "spec.json", spec)
        np.savez(temporary / "params.npz", **_flatten(self.params))
        np.savez_compressed(
            temporary / "buffer.npz",
            physics=self.buffer.physics,
            **{f"obs/{name}": leaf for name, leaf in self.buffer.obs.items()},
        )
        (temporary / "card.md").write_text(card, encoding="utf-8")
        if directory.exists():
            shutil.rmtree(_aside(directory), ignore_errors=True)
            directory.replace(_aside(directory))
        temporary.replace(directory)
        shutil.rmtree(_aside(directory), ignore_errors=True)

    def _head(self) -> "_Head":
        config, options = dataclasses.asdict(self.config), dict(self.options)
        return _Head(FORMAT, self.agent_name, config, self.world, options, self.params_sha256)


@dataclasses.dataclass(frozen=True)
class Prompted:
    """A policy that knows what for. `z` is [D], or [T, D] for a motion that is walked along."""

    policy: Policy
    z: np.ndarray

    def carry(self) -> tuple[int, Any]:
        """What `act` remembers at the start of an episode."""
        return 0, self.policy.agent.carry(1)

    def act(self, obs: Obs, carry: tuple[int, Any]) -> tuple[Float[np.ndarray, " A"], tuple[int, Any]]:
        """The action for one observation (leaves without a batch axis), in [-1, 1], and the next carry."""
        step, inner = carry
        z = self.z if self.z.ndim == 1 else self.z[min(step, len(self.z) - 1)]
        batched = {name: jnp.asarray(leaf, obs_type(name))[None] for name, leaf in obs.items()}
        action, inner = _act(self.policy)(self.policy.params, batched, jnp.asarray(z), inner)
        return np.asarray(action[0]), (step + 1, inner)


@dataclasses.dataclass(frozen=True)
class _Head:
    """What config.json holds."""

    format: int
    agent: str
    config: Mapping[str, Any]
    world: str
    options: Mapping[str, Any]
    params_sha256: str
    sha256: str = ""  # folders written before there was one have none


def _identity(head: _Head, spec: Mapping[str, Any]) -> str:
    described = {
        "agent": head.agent,
        "config": head.config,
        "spec": spec,
        "world": head.world,
        "options": head.options,
        "params_sha256": head.params_sha256,
    }
    # 1 and 1.0 are one number: which of them a file says is up to who wrote it.
    canonical = json.loads(json.dumps(described), parse_int=float)
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()


def load(directory: str | Path) -> Policy:
    """The policy in a folder, or in `policy` of a run's. Raises InputError naming the missing or damaged file."""
    directory = _folder(Path(directory))
    path = directory / "config.json"
    raw = read_json(path, FOLDER)
    # A newer format may have other fields, so its number is looked at first.
    if isinstance(raw, Mapping) and raw.get("format", FORMAT) != FORMAT:
        raise InputError(f"{path}: format {raw['format']} is not {FORMAT}, the one read here")
    head = from_json(_Head, raw, f"{path}")
    config = from_json(_agents().module(head.agent).Config, head.config, f"{path}", "config.")
    raw_spec = read_json(directory / "spec.json", FOLDER)
    spec = from_json(Spec, raw_spec, f"{directory / 'spec.json'}")
    arrays = read_npz(directory / "params.npz", FOLDER)
    params = _unflatten({name: jnp.asarray(leaf) for name, leaf in arrays.items()})
    stored = read_npz(directory / "buffer.npz", FOLDER)
    if "physics" not in stored:
        raise InputError(f"{directory / 'buffer.npz'}: array 'physics' is missing")
    obs = {name.removeprefix("obs/"): leaf for name, leaf in stored.items() if name.startswith("obs/")}
    policy = Policy(head.agent, config, spec, head.world, head.options, params, Buffer(obs, stored["physics"]))
    if policy.params_sha256 != head.params_sha256:
        raise InputError(f"{directory / 'params.npz'}: content does not match its checksum in config.json")
    # What the files say, not what is made of them: a field that a configuration got since has its default here and no
    # part in the hash, so that older policies and the prompts made for them go on.
    identity = _identity(head, raw_spec)
    if head.sha256 not in ("", identity):
        raise InputError(f"{directory}: config.json or spec.json was changed, the policy does not match its checksum")
    policy.__dict__["sha256"] = identity  # where `cached_property` keeps it
    return policy


def _folder(directory: Path) -> Path:
    """The folder that holds a policy: the given one, `policy` in it, or what an interrupted save of them left aside."""
    for folder in (directory, directory / "policy"):
        if (folder / "config.json").exists():
            return folder
        if not folder.exists() and (_aside(folder) / "config.json").exists():
            return _aside(folder)
    return directory


def _aside(directory: Path) -> Path:
    return directory.parent / f"{directory.name}.replaced"


def check_prompt(prompt: Prompt, spec: Spec) -> None:
    """Nothing; raises InputError where a prompt does not fit the spec, is not finite, or has no such inference."""
    obs = getattr(prompt, "obs", None)
    if obs is None:
        return
    kind = type(prompt).__name__
    for name, shape in spec.obs.items():
        if name not in obs:
            raise InputError(f"{kind} prompt: observation '{name}' is missing; got {', '.join(obs) or 'none'}")
        got = tuple(np.shape(obs[name]))
        rows = () if isinstance(prompt, Goal) else got[:1]
        if got != (*rows, *shape) or 0 in rows:
            wanted = shape if isinstance(prompt, Goal) else ("N", *shape)
            raise InputError(f"{kind} prompt: observation '{name}' must have shape {wanted}, got {got}")
        if isinstance(prompt, Reward) and np.shape(prompt.reward) != rows:
            raise InputError(f"{kind} prompt: reward must have shape {rows}, got {np.shape(prompt.reward)}")
        if not np.isfinite(np.asarray(obs[name])).all():
            raise InputError(f"{kind} prompt: observation '{name}' holds a non-finite value")
    if isinstance(prompt, Reward):
        check_solver("Reward prompt", prompt)
        if not np.isfinite(np.asarray(prompt.reward)).all():
            row = int(np.argmin(np.isfinite(prompt.reward)))
            raise InputError(f"{kind} prompt: reward holds a non-finite value in row {row}")


@functools.lru_cache(maxsize=8)
def _act_of(agent: Agent) -> Any:
    return jax.jit(lambda params, obs, z, carry: agent.act(params, obs, z, carry, None))


def _act(policy: Policy) -> Any:
    return _act_of(policy.agent)


def _agents() -> Any:
    # The one place where the ground floor reaches upstairs: a checkpoint names an agent, the table resolves it.
    return importlib.import_module("agents")


def _flatten(tree: PyTree) -> dict[str, Any]:
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _digest(leaves: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(leaves):
        value = np.ascontiguousarray(leaves[name])
        digest.update(f"{name}:{value.dtype}:{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
