"""What a trained agent is for a user: a folder of plain files, a `Policy` that may be prompted, a `Prompted` that acts.

Folder: config.json (agent, its configuration, world), spec.json (shapes and statistics), params.npz, buffer.npz (states
that reward prompts are inferred on), card.md. Nothing in it is code and nothing is pickled.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from embodied.types import Agent, InputError, Obs, Prompt, Spec

FORMAT = 1  # of the folder; readers refuse newer ones


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
    def sha256(self) -> str:
        """Content hash of the parameters, for provenance."""
        return _digest(_flatten(self.params))

    def prompt(self, prompt: Prompt, seed: int = 0) -> "Prompted":
        """The policy with a latent. Raises InputError for a prompt of the wrong shape or of a kind not taken."""
        check_prompt(prompt, self.spec)
        try:
            z = self.agent.prompt(self.params, prompt, jax.random.key(seed))
        except TypeError as error:
            raise InputError(f"prompt: {error}") from error
        if not np.isfinite(np.asarray(z)).all() or (np.size(z) and not np.any(z)):
            raise InputError(
                "prompt: gives no latent (the reward is constant over the buffer, or a value is not finite)"
            )
        return Prompted(self, np.asarray(z))

    def save(self, directory: Path, card: str = "") -> None:
        """Nothing; writes the folder, complete or not at all."""
        directory = Path(directory)
        temporary = directory.with_name(directory.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        head = {"format": FORMAT, "agent": self.agent_name, "config": dataclasses.asdict(self.config)}
        head |= {"world": self.world, "options": dict(self.options), "params_sha256": self.sha256}
        _write_json(temporary / "config.json", head)
        _write_json(temporary / "spec.json", dataclasses.asdict(self.spec))
        np.savez(temporary / "params.npz", **_flatten(self.params))
        np.savez_compressed(
            temporary / "buffer.npz",
            physics=self.buffer.physics,
            **{f"obs/{name}": leaf for name, leaf in self.buffer.obs.items()},
        )
        (temporary / "card.md").write_text(card, encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        temporary.replace(directory)


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
        batched = {name: jnp.asarray(leaf, jnp.float32)[None] for name, leaf in obs.items()}
        action, inner = _act(self.policy)(self.policy.params, batched, jnp.asarray(z), inner)
        return np.asarray(action[0]), (step + 1, inner)


def load(directory: str | Path) -> Policy:
    """The policy in a folder. Raises InputError naming the missing or damaged file."""
    directory = Path(directory)
    if not (directory / "config.json").exists() and (directory / "policy" / "config.json").exists():
        directory = directory / "policy"
    fields = ("format", "agent", "config", "world", "options", "params_sha256")
    head = _having(fields, _read_json(directory / "config.json"), directory / "config.json")
    if head.get("format") != FORMAT:
        raise InputError(f"{directory / 'config.json'}: format {head.get('format')} is not {FORMAT}, the one read here")
    module = _agents().module(head["agent"])
    config = config_from_dict(module.Config, head["config"], f"{directory / 'config.json'}")
    raw = _having(("obs", "action", "mean", "std"), _read_json(directory / "spec.json"), directory / "spec.json")
    spec = Spec(
        obs={name: tuple(shape) for name, shape in raw["obs"].items()},
        action=raw["action"],
        mean={name: tuple(values) for name, values in raw["mean"].items()},
        std={name: tuple(values) for name, values in raw["std"].items()},
    )
    params = _unflatten({name: jnp.asarray(leaf) for name, leaf in _read_npz(directory / "params.npz").items()})
    stored = _having(("physics",), _read_npz(directory / "buffer.npz"), directory / "buffer.npz")
    obs = {name.removeprefix("obs/"): leaf for name, leaf in stored.items() if name.startswith("obs/")}
    policy = Policy(head["agent"], config, spec, head["world"], head["options"], params, Buffer(obs, stored["physics"]))
    if policy.sha256 != head["params_sha256"]:
        raise InputError(f"{directory / 'params.npz'}: content does not match its checksum in config.json")
    return policy


def config_from_dict(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A Config (nested dataclasses included) from a mapping. Raises InputError for an unknown field."""
    from embodied.types import nearest

    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise InputError(f"{where}: unknown field '{name}' of {kind.__module__}.Config; {nearest(name, fields)}")
    nested = {
        name: config_from_dict(type(fields[name].default), value, where)
        if dataclasses.is_dataclass(fields[name].default) and isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
    return kind(**nested)


def check_prompt(prompt: Prompt, spec: Spec) -> None:
    """Nothing; raises InputError where a prompt's observations do not fit the spec or are not finite."""
    obs = getattr(prompt, "obs", None)
    if obs is None:
        return
    kind = type(prompt).__name__
    for name, shape in spec.obs.items():
        if name not in obs:
            raise InputError(f"{kind} prompt: observation '{name}' is missing; got {', '.join(obs) or 'none'}")
        got = tuple(np.shape(obs[name]))
        wanted = shape if kind == "Goal" else ("N", *shape)
        if got[-len(shape) :] != shape or len(got) != len(wanted):
            raise InputError(f"{kind} prompt: observation '{name}' must have shape {wanted}, got {got}")
        if not np.isfinite(np.asarray(obs[name])).all():
            raise InputError(f"{kind} prompt: observation '{name}' holds a non-finite value")
    reward = getattr(prompt, "reward", None)
    if reward is not None and not np.isfinite(np.asarray(reward)).all():
        raise InputError(f"{kind} prompt: reward holds a non-finite value in row {int(np.argmin(np.isfinite(reward)))}")


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


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected the folder of a trained policy") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error.msg} in line {error.lineno})") from error


def _having(fields: tuple[str, ...], content: Any, path: Path) -> Any:
    """`content`, or InputError naming the first field that it lacks."""
    for field in fields:
        if not isinstance(content, Mapping) or field not in content:
            raise InputError(f"{path}: field '{field}' is missing; expected {', '.join(fields)}")
    return content


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected the folder of a trained policy") from error
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged or not an npz of plain arrays ({error})") from error
