"""Named experiments and collections; the one place for choices."""

import dataclasses
from typing import Any

from agents import byol, byol_gamma, fb, hilp, icvf, laplacian, onestep_fb, rldp, td3, td_jepa
from embodied.sight import Image
from embodied.train import TrainConfig
from envs.metaworld_tasks import TASKS
from experiments import ogbench_agents, planning_agents, skill_agents, task_agents
from experiments.experiment import Collect, Experiment, Online

_MAZE_TD_JEPA = td_jepa.Config(
    phi_dim=64,
    psi_hidden=128,
    hidden=128,
    discount=0.97,
    tau=0.01,
    lr_phi=1e-3,
    lr_psi=5e-4,
    lr_predictor=1e-3,
    lr_actor=5e-4,
    c_phi=0.1,
    c_psi=1.0,
    inputs="standardized",
)
_MAZE_FB = fb.Config(
    encoder_dim=64,
    backward_hidden=128,
    hidden=128,
    discount=0.97,
    tau=0.01,
    lr_forward=1e-3,
    lr_backward=5e-4,
    lr_actor=5e-4,
    inputs="standardized",
)
_SMALL_TD_JEPA = td_jepa.Config(
    hidden=256,
    phi_dim=128,
    tau=0.01,
    lr_phi=5e-4,
    lr_psi=2e-4,
    lr_predictor=5e-4,
    lr_actor=3e-4,
    c_psi=1.0,
    actor_pessimism=0.5,
    inputs="standardized",
)
_SMALL_FB = fb.Config(
    hidden=256,
    encoder_dim=128,
    tau=0.01,
    lr_forward=5e-4,
    lr_backward=2e-4,
    lr_actor=3e-4,
    actor_pessimism=0.5,
    inputs="standardized",
)
_SMALL_TRAIN = TrainConfig(updates=40_000, batch_size=256, chunk=500)
_PUBLISHED_TRAIN = TrainConfig(updates=3_000_000, batch_size=1024, chunk=1_000)
_ONLINE = Online(worlds=50, quantities=("torso_height", "torso_upright", "torso_velocity_x", "torso_pitch_rate"))
# Two control steps per decision, as is common for these robots: the same discount looks twice as far ahead.
_SMALL_HOLD = 2
_STARTS = ("suite", "reference")  # half of the episodes begin on the robot's feet
_RND = Collect(
    "", explorer="rnd", episodes=3000, decisions=100, worlds=50, starts=_STARTS, updates=150, hold=_SMALL_HOLD
)

PRESETS: dict[str, Any] = {
    "point_maze-td_jepa-small": Experiment("point_maze", _MAZE_TD_JEPA, TrainConfig(updates=18_000, batch_size=256)),
    "point_maze-fb-small": Experiment("point_maze", _MAZE_FB, TrainConfig(updates=18_000, batch_size=256)),
}
for _world in ("walker", "cheetah", "quadruped"):
    PRESETS |= {
        f"{_world}-td_jepa-small": Experiment(_world, _SMALL_TD_JEPA, _SMALL_TRAIN, _SMALL_HOLD, _ONLINE),
        f"{_world}-fb-small": Experiment(_world, _SMALL_FB, _SMALL_TRAIN, _SMALL_HOLD, _ONLINE),
        f"{_world}-td_jepa": Experiment(_world, td_jepa.Config(), _PUBLISHED_TRAIN),
        f"{_world}-fb": Experiment(_world, fb.Config(), _PUBLISHED_TRAIN),
        f"{_world}-td3-small": Experiment(
            _world,
            td3.Config(hidden=256, lr=3e-4, inputs="standardized"),
            _SMALL_TRAIN,
            _SMALL_HOLD,
            _ONLINE,
            task="walk",
        ),
        f"{_world}-td3": Experiment(_world, td3.Config(), _PUBLISHED_TRAIN, task="walk"),
    }
_DOG_ONLINE = dataclasses.replace(
    _ONLINE, quantities=("torso_height", "torso_upright", "torso_velocity_x", "torso_yaw_rate")
)
PRESETS |= {
    "robot_dog-td_jepa-small": Experiment("robot_dog", _SMALL_TD_JEPA, _SMALL_TRAIN, online=_DOG_ONLINE),
    "robot_dog-fb-small": Experiment("robot_dog", _SMALL_FB, _SMALL_TRAIN, online=_DOG_ONLINE),
    "robot_dog-td3-small": Experiment(
        "robot_dog",
        td3.Config(hidden=256, lr=3e-4, inputs="standardized"),
        _SMALL_TRAIN,
        online=_DOG_ONLINE,
        task="walk",
    ),
}
# From whole ways of the object, which skills and curiosity make: what a table is good for shows within a few seconds.
_TABLETOP_TRAIN = TrainConfig(updates=20_000, batch_size=256, chunk=500)
for _name, _config in {"td_jepa": _SMALL_TD_JEPA, "fb": _SMALL_FB}.items():
    _near: Any = dataclasses.replace(_config, discount=0.97)
    PRESETS[f"tabletop_push-{_name}-small"] = Experiment("tabletop_push", _near, _TABLETOP_TRAIN)
PRESETS |= {
    "point_maze-td_jepa": Experiment("point_maze", td_jepa.Config(discount=0.99, lr_actor=1e-6), _PUBLISHED_TRAIN),
    "point_maze-fb": Experiment("point_maze", fb.Config(discount=0.99, lr_actor=1e-6), _PUBLISHED_TRAIN),
}
# What TD-JEPA is compared with, beside forward-backward; small ones in the sizes and rates of the small presets above.
_PUBLISHED = {
    "laplacian": laplacian.Config(),
    "hilp": hilp.Config(),
    "icvf": icvf.Config(),
    "byol": byol.Config(),
    "byol_gamma": byol_gamma.Config(),
    "rldp": rldp.Config(),
    "onestep_fb": onestep_fb.Config(),
}
_SUCCESSOR_RATES = {"lr_features": 2e-4, "lr_successor": 5e-4}
_FORWARD_RATES = {"lr_forward": 5e-4, "lr_backward": 2e-4}
_SIZES = {"tau": 0.01, "lr_actor": 3e-4, "hidden": 256, "actor_pessimism": 0.5, "inputs": "standardized"}
_MAZE_SUCCESSOR = {"feature_hidden": 128, "lr_features": 5e-4, "lr_successor": 1e-3}
_MAZE_FORWARD = {"backward_hidden": 128, "lr_forward": 1e-3, "lr_backward": 5e-4}
_MAZE_SIZES = {"tau": 0.01, "lr_actor": 5e-4, "hidden": 128, "discount": 0.97, "inputs": "standardized"}
for _name, _config in _PUBLISHED.items():
    _forward = _name in ("rldp", "onestep_fb")
    # The encoder of ICVF is as wide as its latent; one-step forward-backward has none.
    _wide = {} if _name in ("icvf", "onestep_fb") else {"encoder_dim": 128}
    _small: Any = dataclasses.replace(_config, **_SIZES, **(_FORWARD_RATES if _forward else _SUCCESSOR_RATES), **_wide)
    _maze: Any = dataclasses.replace(
        _config, **_MAZE_SIZES, **(_MAZE_FORWARD if _forward else _MAZE_SUCCESSOR), **{name: 64 for name in _wide}
    )
    _long: Any = dataclasses.replace(_config, discount=0.99, lr_actor=1e-6)
    PRESETS |= {
        f"point_maze-{_name}-small": Experiment("point_maze", _maze, TrainConfig(updates=18_000, batch_size=256)),
        f"point_maze-{_name}": Experiment("point_maze", _long, _PUBLISHED_TRAIN),
    }
    for _world in ("walker", "cheetah", "quadruped"):
        PRESETS |= {
            f"{_world}-{_name}-small": Experiment(_world, _small, _SMALL_TRAIN, _SMALL_HOLD, _ONLINE),
            f"{_world}-{_name}": Experiment(_world, _config, _PUBLISHED_TRAIN),
        }
# From pixels: everything is learned from stored data, because rollouts would have to be drawn first.
_PIXEL_TRAIN = TrainConfig(updates=2_000_000, batch_size=512, chunk=1_000)
_SMALL_PIXEL_TRAIN = TrainConfig(updates=20_000, batch_size=128, chunk=100)
_SMALL_IMAGE = Image(channels=32, kernels=(4, 2, 2), strides=(4, 2, 2), features=128)
_SEEN: dict[str, Any] = {"pixels": 64, "buffer": 10_000}
_SMALL_SEEN: dict[str, Any] = {"pixels": 64, "buffer": 4_000, "train": _SMALL_PIXEL_TRAIN}
for _world in ("point_maze", "walker", "cheetah", "quadruped"):
    _longer: Any = {"discount": 0.99} if _world == "point_maze" else {}
    for _name in ("td_jepa", "fb", *_PUBLISHED):
        _preset = PRESETS[f"{_world}-{_name}-small"]
        _small = dataclasses.replace(_preset.agent, hidden=256, matmul="float32", image=_SMALL_IMAGE)
        _config = dataclasses.replace({"td_jepa": td_jepa.Config(), "fb": fb.Config(), **_PUBLISHED}[_name], **_longer)
        PRESETS |= {
            f"{_world}-{_name}-pixels-small": dataclasses.replace(
                _preset, agent=_small, online=Online(), **_SMALL_SEEN
            ),
            f"{_world}-{_name}-pixels": Experiment(_world, _config, _PIXEL_TRAIN, **_SEEN),
        }
for _world, _task in ogbench_agents.WORLDS.items():
    for _size, _agents, _train, _clone_train, _image, _seen in (
        ("-small", ogbench_agents.small(_world), *ogbench_agents.SMALL_TRAIN, _SMALL_IMAGE, _SMALL_SEEN),
        ("", ogbench_agents.published(_world), *[TrainConfig(1_000_000, 256)] * 2, Image(), _SEEN),
    ):
        for _name, _config in _agents.items():
            _budget = _clone_train if _name == "bc" else _train
            _preset = Experiment(_world, _config, _budget, task=_task if _name == "td3" else None)
            PRESETS[f"{_world}-{_name}{_size}"] = _preset
            if _name not in ("td3", "bc"):
                _config = ogbench_agents.seeing(_config, _image)
                PRESETS[f"{_world}-{_name}-pixels{_size}"] = dataclasses.replace(_preset, agent=_config, **_seen)
for _world, (_config, _worlds, _decisions, _updates) in skill_agents.WORLDS.items():
    _budget = TrainConfig(_updates, _worlds * _decisions, chunk=1)
    PRESETS[f"{_world}-multi_critic-small"] = Experiment(
        _world, _config, _budget, online=Online(_worlds, _decisions), evaluate_every=0
    )
for _name, _ringed in (("multi_critic_sac", skill_agents.REPLAYED), ("planner", skill_agents.PLANNED)):
    for _world, (_replayed, _worlds, _decisions, _updates, _chunk) in _ringed.items():
        PRESETS[f"{_world}-{_name}-small"] = Experiment(
            _world, _replayed, TrainConfig(_updates, 256, _chunk), online=Online(_worlds, _decisions)
        )
PRESETS |= task_agents.presets() | planning_agents.presets()

COLLECT: dict[str, Collect] = {
    "point_maze-noise": Collect("point_maze", episodes=3000, decisions=50, worlds=1000, correlation=6.0),
    "point_maze-rnd": dataclasses.replace(_RND, world="point_maze", starts=(), hold=None),
    "walker-noise": Collect("walker", episodes=3000, decisions=100, worlds=50, starts=_STARTS, hold=_SMALL_HOLD),
    "walker-rnd": dataclasses.replace(_RND, world="walker"),
    "walker-goals": Collect("walker", "goals", 600, 500, 50, policy="walker", hold=_SMALL_HOLD),
    "cheetah-rnd": dataclasses.replace(_RND, world="cheetah"),
    "quadruped-rnd": dataclasses.replace(_RND, world="quadruped"),
    "tabletop_push-rnd": dataclasses.replace(_RND, world="tabletop_push", starts=(), hold=None),
    "robot_dog-rnd": dataclasses.replace(_RND, world="robot_dog", starts=("stand", "anyhow"), hold=None),
    "push_t-pushes": Collect("push_t", "pushes", 3000, 50, 50, scale=0.5),
}
for _world in ("hopper", "humanoid"):
    COLLECT[f"{_world}-rnd"] = dataclasses.replace(_RND, world=_world)
for _world in ("reacher", "ball_in_cup", "finger_spin", "finger_turn_easy", "finger_turn_hard"):
    COLLECT[f"{_world}-rnd"] = dataclasses.replace(_RND, world=_world, starts=())
COLLECT["cartpole-rnd"] = dataclasses.replace(_RND, world="cartpole", starts=("suite", "balance"))
for _world in ("cube_single", "cube_double", "scene", "puzzle_3x3"):
    for _style in ("play", "noisy"):
        COLLECT[f"{_world}-{_style}"] = Collect(_world, _style, episodes=1000, decisions=1000, worlds=10)
for _name in [name for name in COLLECT if not name.endswith("-goals")]:
    _world, _style = _name.split("-")
    if f"{_world}-td_jepa-pixels-small" in PRESETS:
        COLLECT[f"{_world}-pixels-{_style}"] = dataclasses.replace(COLLECT[_name], pixels=64)
for _task in TASKS:
    _world = f"metaworld_{_task}"
    COLLECT[f"{_world}-expert"] = Collect(_world, "expert", episodes=50, decisions=500, worlds=10)
COLLECT["push_t-pixels-pushes"] = dataclasses.replace(COLLECT["push_t-pushes"], pixels=64)
