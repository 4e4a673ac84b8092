"""Encoders for Meta-World's tasks, at sizes for two CPU cores: agents that learn from states without rewards."""

from typing import Any

from agents import fb, jepa, td_jepa

# A control step takes 1/80 s, so a discount of 0.98 looks less than a second ahead: about the length of one motion.
SMALL: dict[str, Any] = {
    "td_jepa": td_jepa.Config(
        hidden=256,
        phi_dim=128,
        discount=0.98,
        tau=0.01,
        lr_phi=5e-4,
        lr_psi=2e-4,
        lr_predictor=5e-4,
        lr_actor=3e-4,
        c_psi=1.0,
        inputs="standardized",
    ),
    "fb": fb.Config(
        hidden=256,
        encoder_dim=128,
        discount=0.98,
        tau=0.01,
        lr_forward=5e-4,
        lr_backward=2e-4,
        lr_actor=3e-4,
        inputs="standardized",
    ),
    "jepa": jepa.Config(latent=64, hidden=256, layers=1, projections=64, lr=5e-4, inputs="standardized"),
}
