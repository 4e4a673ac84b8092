"""Rewards: a small language of expressions over named quantities, and the tasks that are written in it."""

from embodied.rewards.functions import tolerance
from embodied.rewards.task import RewardPiece, Task, dry_run, is_constant

__all__ = ["RewardPiece", "Task", "dry_run", "is_constant", "tolerance"]
