"""Agents for the worlds of OGBench, at published sizes and at sizes for two CPU cores.

Published values are those of arXiv 2510.00739, appendix, and arXiv 2602.11399 for one-step forward-backward; where a
value was chosen among several per world, the one nearest their middle stands here.
"""

import dataclasses
from typing import Any

from agents import bc, byol, byol_gamma, fb, hilp, icvf, laplacian, onestep_fb, rldp, td3, td_jepa
from embodied.actor import Imitation
from embodied.sight import Image
from embodied.train import TrainConfig

SMALL_TRAIN = (TrainConfig(12_000, 128), TrainConfig(100_000, 256))  # of methods, and of the clone that teaches them
WORLDS = {  # world -> its first task, which the single-task learner learns unless told otherwise
    "cube_single": "task1_horizontal",
    "cube_double": "task1_single_pnp",
    "scene": "task1_open",
    "puzzle_3x3": "task1",
    "antmaze_medium": "task1",
    "antmaze_large": "task1",
}


def published(world: str) -> dict[str, Any]:
    """Method -> its Config."""
    maze = world.startswith("antmaze")
    actor = Imitation(weight=0.3 if maze else 3.0)
    shared = {"hidden": 512, "layers": 2, "discount": 0.99, "tau": 0.005, "imitation": actor}
    encoder = {"encoder_dim": 50, "encoder_hidden": 512, "encoder_layers": 4}
    trunk = shared | encoder | {"feature_hidden": 512, "feature_layers": 4}
    measure = shared | encoder | {"backward_hidden": 512, "backward_layers": 4}
    both = {"phi_dim": 50, "phi_hidden": 512, "phi_layers": 4, "psi_hidden": 512, "psi_layers": 4}
    orthonormal = 0.01 if maze else 0.1
    return {
        "td_jepa": td_jepa.Config(**shared, **both, c_phi=1.0, c_psi=1.0, scale_goals=True),
        "fb": fb.Config(**measure, c_orth=100.0),
        "laplacian": laplacian.Config(**trunk),
        "hilp": hilp.Config(**trunk),
        "icvf": icvf.Config(**trunk),
        "byol": byol.Config(**trunk, c_orth=orthonormal),
        "byol_gamma": byol_gamma.Config(**trunk, c_orth=orthonormal),
        "rldp": rldp.Config(**measure, c_orth=orthonormal),
        "onestep_fb": onestep_fb.Config(
            **shared | {"layers": 4}, actor_layers=2, z_dim=128, backward_hidden=512, backward_layers=4
        ),
        "td3": td3.Config(**shared | {"layers": 4}, lr=3e-4),
        "bc": bc.Config(),
    }


def small(world: str) -> dict[str, Any]:
    """Method -> its Config for minutes on a CPU: smaller networks, faster rates and targets, standardised inputs.

    Actions are chosen among a few draws of a clone of the data in place of a network that is held to it: a short
    training has no time to learn precise actions twice. A clone that was trained before (`bc`) serves all methods.
    """
    cloning = bc.Config(hidden=256, layers=4, lr=1e-3, inputs="standardized")
    # Targets that follow slowly, and far horizons, take more updates than a small training has.
    discount = 0.99 if world.startswith("antmaze") else 0.98
    configs = {name: config for name, config in published(world).items() if name != "bc"}
    return {name: _smaller(config, cloning, discount) for name, config in configs.items()} | {"bc": cloning}


def seeing(config: Any, image: Image) -> Any:
    """The same agent for pixels: what encodes the state is one layer as wide as the features of the images.

    The encoder of ICVF stays as wide as its latent.
    """
    names = {field.name for field in dataclasses.fields(config)}
    changes = {name: 0 for name in ("phi_layers", "encoder_layers") if name in names}
    if not isinstance(config, icvf.Config):
        changes |= {name: image.features for name in ("phi_dim", "encoder_dim") if name in names}
    return dataclasses.replace(config, **changes, image=image)


def _smaller(config: Any, cloning: bc.Config, discount: float) -> Any:
    names = {field.name for field in dataclasses.fields(config)}
    changes: dict[str, Any] = {name: 256 for name in names if name.endswith("hidden")}
    changes |= {name: 2 for name in names if name.endswith("_layers")}
    changes |= {name: 5e-4 for name in names if name.startswith("lr")}
    imitation = Imitation(candidates=4, hidden=cloning.hidden, layers=cloning.layers, steps=3, lr=cloning.lr)
    changes |= {"layers": config.layers // 2, "tau": 0.02, "discount": discount, "imitation": imitation}
    return dataclasses.replace(config, **changes, inputs=cloning.inputs)
