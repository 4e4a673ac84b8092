"""The fifty tasks of Meta-World: a sentence for each, and when it is solved.

Conditions are those of the package (version 3), written over the quantities of `envs.metaworld_table`.
"""

from typing import NamedTuple


class Chore(NamedTuple):
    """One task: what it asks for, the condition under which it is solved, and what that reads beside the usual."""

    instruction: str
    solved: str  # in the language of rewards, 1 or 0
    site: str = ""  # of the model: its place is the quantity "point_position"
    joint: str = ""  # of the model: its position is the quantity "joint_position"
    grasp: bool = False  # whether both fingers push on the object is the quantity "grasped"


def _near(limit: float, thing: str = "object_position") -> str:
    return f"norm({thing} - goal_position) <= {limit}"


def _along(axis: str, limit: float) -> str:
    index = "xyz".index(axis)
    return f"abs(component(object_position, {index}) - component(goal_position, {index})) <= {limit}"


_PEG = "point_position - goal_position"
_HANDLE = "component(point_position, {0}) - component(other_position, {0})"
_ON_PEG = (
    "(component(goal_position, 0) - component(point_position, 0)) ** 2"
    " + (component(goal_position, 1) - component(point_position, 1)) ** 2 < 0.0004"
)
_IN_BASKET = (
    "(component(object_position, 0) - component(goal_position, 0)) ** 2"
    " + (component(object_position, 1) - component(goal_position, 1)) ** 2"
    " + 4 * (component(object_position, 2) - 0.3) ** 2 <= 0.0064"
)
_OVER_THE_HOLE = (
    "(component(object_position, 0) - component(goal_position, 0)) ** 2"
    " + (component(object_position, 1) - component(goal_position, 1)) ** 2 <= 0.0025"
)
_IN_THE_HANDLE = (
    f"({_near(0.12, 'other_position')}) * ({_HANDLE.format(0)} >= 0)"
    f" * (abs({_HANDLE.format(1)}) <= 0.04) * (abs({_HANDLE.format(2)}) <= 0.06)"
)
_HELD_AGAINST = f"({_near(0.12, 'other_position')}) * grasped * (gripper > 0) * (component(object_position, 2) > 0.03)"

TASKS = {
    "assembly": Chore(
        "put the nut onto the peg",
        f"({_ON_PEG}) * (component(goal_position, 2) > component(point_position, 2))",
        site="RoundNut",
    ),
    "basketball": Chore("dunk the ball into the basket", _IN_BASKET),
    "bin_picking": Chore("move the cube from one bin to the other", _near(0.05)),
    "box_close": Chore("put the lid onto the box", "norm(object_position - goal_position) < 0.08"),
    "button_press_topdown": Chore("press the button from above", _along("z", 0.024)),
    "button_press_topdown_wall": Chore("press the button from above, past the wall", _along("z", 0.024)),
    "button_press": Chore("press the button", _along("y", 0.02)),
    "button_press_wall": Chore("press the button behind the wall", _along("y", 0.03)),
    "coffee_button": Chore("push the button of the coffee machine", _along("y", 0.02)),
    "coffee_pull": Chore("pull the mug away from the coffee machine", _near(0.07)),
    "coffee_push": Chore("push the mug under the coffee machine", _near(0.07)),
    "dial_turn": Chore("turn the dial", _near(0.07)),
    "disassemble": Chore("lift the nut off the peg", "component(object_position, 2) > component(goal_position, 2)"),
    "door_close": Chore("close the door", _near(0.08)),
    "door_lock": Chore("lock the door", _along("z", 0.02)),
    "door_open": Chore("open the door", _along("x", 0.08)),
    "door_unlock": Chore("unlock the door", _along("x", 0.02)),
    "drawer_close": Chore("close the drawer", _near(0.065)),
    "drawer_open": Chore("open the drawer", _near(0.03)),
    "faucet_close": Chore("close the faucet", _near(0.07)),
    "faucet_open": Chore(
        "open the faucet",
        "(component(object_position, 0) - 0.04 - component(goal_position, 0)) ** 2"
        " + (component(object_position, 1) - component(goal_position, 1)) ** 2"
        " + (component(object_position, 2) + 0.03 - component(goal_position, 2)) ** 2 <= 0.0049",
    ),
    "hammer": Chore("hammer the nail into the wall", "joint_position > 0.09", joint="NailSlideJoint"),
    "hand_insert": Chore("put the gripper into the hole", _near(0.05)),
    "handle_press": Chore("press the handle down", _along("z", 0.02)),
    "handle_press_side": Chore("press the handle at the side down", _along("z", 0.02)),
    "handle_pull": Chore("pull the handle up", _along("z", 0.05)),
    "handle_pull_side": Chore("pull the handle at the side up", _near(0.08)),
    "lever_pull": Chore("pull the lever up", "abs(joint_position + pi / 2) <= pi / 24", joint="LeverAxis"),
    "peg_insert_side": Chore(
        "put the peg into the hole at the side",
        f"component({_PEG}, 0) ** 2 + 4 * component({_PEG}, 1) ** 2 + 4 * component({_PEG}, 2) ** 2 <= 0.0049",
        site="pegHead",
    ),
    "peg_unplug_side": Chore("pull the peg out of the hole at the side", _near(0.07)),
    "pick_out_of_hole": Chore("lift the puck out of the hole", _near(0.07)),
    "pick_place": Chore("pick up the puck and hold it at the goal", _near(0.07)),
    "pick_place_wall": Chore("pick up the puck and carry it over the wall to the goal", _near(0.07)),
    "plate_slide": Chore("slide the plate into the cabinet", _near(0.07)),
    "plate_slide_back": Chore("slide the plate out of the cabinet", _near(0.07)),
    "plate_slide_back_side": Chore("slide the plate sideways out of the cabinet", _near(0.07)),
    "plate_slide_side": Chore("slide the plate sideways into the cabinet", _near(0.07)),
    "push": Chore("push the puck to the goal", _near(0.05)),
    "push_back": Chore("pull the puck back to the goal", _near(0.07)),
    "push_wall": Chore("push the puck around the wall to the goal", _near(0.07)),
    "reach": Chore("reach for the goal", _near(0.05, "fingers_position")),
    "reach_wall": Chore("reach past the wall for the goal", _near(0.05, "fingers_position")),
    "shelf_place": Chore("put the puck onto the shelf", _near(0.07)),
    "soccer": Chore("push the ball into the goal", _near(0.07)),
    "stick_pull": Chore("grasp the stick and pull the box with it", _IN_THE_HANDLE, site="stick_end"),
    "stick_push": Chore("grasp the stick and push the box with it", _HELD_AGAINST, grasp=True),
    "sweep": Chore("sweep the puck off the table", _near(0.05)),
    "sweep_into": Chore("sweep the puck into the hole", _OVER_THE_HOLE),
    "window_close": Chore("close the window", _along("x", 0.05)),
    "window_open": Chore("open the window", _along("x", 0.05)),
}
TEN = (  # MT10, the ten that most work is about
    "reach",
    "push",
    "pick_place",
    "door_open",
    "drawer_open",
    "drawer_close",
    "button_press_topdown",
    "peg_insert_side",
    "window_open",
    "window_close",
)
