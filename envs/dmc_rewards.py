"""The tasks of the dm_control worlds as reward texts: world -> task -> (text, one line about it)."""

WALKER_STAND = (
    "standing = tolerance(torso_height, 1.2, inf, 0.6); upright = (1 + torso_upright) / 2; "
    "stand = (3*standing + upright) / 4"
)
WALKER_MOVE = "move = tolerance(torso_velocity_x, {0}, inf, {1}, linear, 0.5); stand * (5*move + 1) / 6"
HOPPER_STAND = "standing = tolerance(torso_over_foot, 0.6, 2)"
GENTLE = "gentle = (4 + mean(tolerance(control, 0, 0, 1, quadratic, 0))) / 5"
HUMANOID_STAND = (
    "standing = tolerance(head_height, 1.4, inf, 0.35); upright = tolerance(torso_upright, 0.9, inf, 1.9, linear, 0); "
    f"{GENTLE}; stand = gentle * standing * upright"
)
HUMANOID_STILL = "still = (tolerance(torso_velocity_x, 0, 0, 2) + tolerance(torso_velocity_y, 0, 0, 2)) / 2"
HUMANOID_MOVE = "move = tolerance(torso_speed, {0}, inf, {0}, linear, 0); stand * (5*move + 1) / 6"
CHEETAH_MOVE = "tolerance({sign}torso_velocity_x, {speed}, inf, {speed}, linear, 0)"
QUADRUPED_STAND = "upright = tolerance(torso_upright, 1, inf, 2, linear, 0)"
QUADRUPED_MOVE = "move = tolerance(torso_velocity_x, {0}, inf, {0}, linear, 0.5); upright * move"
CARTPOLE = (
    "upright = (1 + pole_upright) / 2; centred = (1 + tolerance(cart_position, 0, 0, 2)) / 2; "
    f"{GENTLE}; slow = (1 + tolerance(pole_velocity, 0, 0, 5)) / 2; upright * gentle * slow * centred"
)
CARTPOLE_SPARSE = "tolerance(cart_position, -0.25, 0.25) * tolerance(pole_upright, 0.995, 1)"

REWARDS = {
    "walker": {
        "stand": (f"{WALKER_STAND}; stand", "stand upright with the torso at 1.2 m"),
        "walk": (f"{WALKER_STAND}; {WALKER_MOVE.format(1, 0.5)}", "stand and move forward at 1 m/s or more"),
        "run": (f"{WALKER_STAND}; {WALKER_MOVE.format(8, 4)}", "stand and move forward at 8 m/s or more"),
        "spin": (
            f"{WALKER_STAND}; spin = tolerance(angular_momentum_y, 5, inf, 5, linear, 0); stand * (5*spin + 1) / 6",
            "turn heels over head, forwards",
        ),
    },
    "cheetah": {
        "walk": (CHEETAH_MOVE.format(sign="", speed=2), "move forward at 2 m/s or more"),
        "walk_backward": (CHEETAH_MOVE.format(sign="-", speed=2), "move backward at 2 m/s or more"),
        "run": (CHEETAH_MOVE.format(sign="", speed=10), "move forward at 10 m/s or more"),
        "run_backward": (CHEETAH_MOVE.format(sign="-", speed=10), "move backward at 10 m/s or more"),
    },
    "quadruped": {
        "stand": (f"{QUADRUPED_STAND}; upright", "keep the torso upright"),
        "walk": (f"{QUADRUPED_STAND}; {QUADRUPED_MOVE.format(0.5)}", "upright, forward at 0.5 m/s or more"),
        "run": (f"{QUADRUPED_STAND}; {QUADRUPED_MOVE.format(5)}", "upright, forward at 5 m/s or more"),
        "jump": (
            f"{QUADRUPED_STAND}; high = tolerance(torso_height, 1, inf, 0.5, linear, 0); upright * high",
            "upright, with the torso at 1 m or more",
        ),
    },
    "hopper": {
        "stand": (f"{HOPPER_STAND}; {GENTLE}; standing * gentle", "stand with the torso 0.6 m over the foot, gently"),
        "hop": (
            f"{HOPPER_STAND}; hop = tolerance(torso_velocity_x, 2, inf, 1, linear, 0.5); standing * hop",
            "stand and hop forward at 2 m/s or more",
        ),
    },
    "humanoid": {
        "stand": (
            f"{HUMANOID_STAND}; {HUMANOID_STILL}; stand * still",
            "stand upright with the head at 1.4 m, gently, and stay in place",
        ),
        "walk": (f"{HUMANOID_STAND}; {HUMANOID_MOVE.format(1)}", "stand and move at 1 m/s or more, in any direction"),
        "run": (f"{HUMANOID_STAND}; {HUMANOID_MOVE.format(10)}", "stand and move at 10 m/s or more, in any direction"),
    },
    "cartpole": {
        "swingup": (CARTPOLE, "swing the pole up and hold it in the middle of the rail, gently"),
        "swingup_sparse": (CARTPOLE_SPARSE, "the same, paid only within 0.25 m of the middle and 5.7 degrees"),
        "balance": (CARTPOLE, "swingup from a start with the pole upright"),
        "balance_sparse": (CARTPOLE_SPARSE, "swingup_sparse from a start with the pole upright"),
    },
    "reacher": {
        "easy": ("target_distance <= 0.06", "have the tip within 6 cm of the target's centre"),
        "hard": ("target_distance <= 0.025", "have the tip within 2.5 cm of the target's centre"),
    },
    "ball_in_cup": {
        "catch": ("(abs(ball_offset_x) < 0.025) * (abs(ball_offset_z) < 0.025)", "have the ball in the cup"),
    },
    "finger_spin": {
        "spin": ("spinner_velocity <= -15", "turn the spinner at 15 rad/s or more, against the sense of its joint"),
    },
    "finger_turn_easy": {
        "turn_easy": ("target_distance <= 0.07", "have the spinner's tip within 7 cm of the target"),
    },
    "finger_turn_hard": {
        "turn_hard": ("target_distance <= 0.03", "have the spinner's tip within 3 cm of the target"),
    },
}
