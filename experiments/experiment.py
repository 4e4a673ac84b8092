"""What an experiment and a collection are: which agent meets which world, on which data, with which budget."""

import dataclasses
from typing import Generic, TypeVar

from agents import kinds, mrq, planner, rnd, tdmpc2
from embodied.ranges import check_choice, check_ranges
from embodied.train import TrainConfig
from embodied.types import InputError
from envs.randomise import LEVELS

AgentConfig = TypeVar("AgentConfig")  # the Config of one of the agents
EXPLORERS = ("noise", "rnd", "goals", "skills", "play", "noisy", "expert", "pushes")
PROMPTED = ("goals", "skills")  # explorers that are policies
COLLECT_RANGES = {
    "[0, inf)": ("pixels",),
    "[1, inf)": ("episodes", "decisions", "worlds", "updates", "latent_hold"),
    "[2, inf)": ("batch_size",),
    "(0, inf)": ("correlation", "scale"),
    "[0, 4294967296)": ("seed",),
}
ONLINE_RANGES = {
    "[0, inf)": ("worlds",),
    "[1, inf)": ("decisions", "latent_hold", "capacity"),
    "[0, 1]": ("restarts", "prompted"),
}
EXPERIMENT_RANGES = {"[0, inf)": ("evaluate_every", "pixels"), "[1, inf)": ("episodes", "buffer", "skill_decisions")}


@dataclasses.dataclass(frozen=True)
class Online:
    """Data that the model makes itself while it learns: z-rollouts between training chunks."""

    worlds: int = 0  # simulated side by side per refill; 0 = learn from the stored data alone
    # Length of a rollout, and of the ring's episodes. Short, because most starts are random poses at standing height:
    # long episodes of an unskilled policy show little but the floor.
    decisions: int = 100
    latent_hold: int = 100  # decisions until the next latent is drawn
    restarts: float = 0.5  # share of rollouts that go on from a state of the ring, in [0, 1]; the others start afresh
    prompted: float = 0.5  # share of latents that answer random rewards over `quantities`, in [0, 1]
    quantities: tuple[str, ...] = ()  # scalar quantities that random rewards are about; () = none are asked
    capacity: int = 10_000  # episodes that the ring holds, stored data included

    def __post_init__(self) -> None:
        check_ranges("online", self, ONLINE_RANGES)


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[AgentConfig]):
    """One training run."""

    world: str
    agent: AgentConfig
    train: TrainConfig
    hold: int | None = None  # control steps per decision; None = the world's default
    online: Online = Online()
    task: str | None = None  # the task whose reward is relabelled (TD3); None = reward-free
    evaluate_every: int = 0  # updates between evaluations, on all tasks or the one that is learnt; 0 = only at the end
    episodes: int = 10  # per task and evaluation
    buffer: int = 20_000  # states kept with the policy for reward prompts
    randomise: str = "none"  # level of domain randomisation: "none", "standard" or "hard"
    pixels: int = 0  # side of the frames that the agent sees in place of the state; 0 = it sees the state
    skills: str = ""  # a run or model whose skills are the actions; "" = the world's own actions
    skill_decisions: int = 10  # for which an action is held where it is a skill
    teacher: str = ""  # a run of agent "bc" that actors are held to in place of a flow of their own; "" = none

    def __post_init__(self) -> None:
        check_choice("train", "randomise", self.randomise, tuple(LEVELS))
        check_ranges("train", self, EXPERIMENT_RANGES)

    @property
    def own_data(self) -> bool:
        """Whether it learns from rollouts of its own alone (`online`), and no stored data."""
        return isinstance(self.agent, kinds.Config | planner.Config | mrq.Config | tdmpc2.Config)


@dataclasses.dataclass(frozen=True)
class Collect:
    """How reward-free data is made."""

    world: str
    # "noise" (Ornstein-Uhlenbeck actions), "rnd" (random network distillation), a policy from one goal to the next
    # ("goals") or one latent of its prior to the next ("skills"), a scripted arm at OGBench's tables: "play" (it
    # plans, with correlated noise) or "noisy" (it answers states, with white noise), or Meta-World's ("expert"), or a
    # pusher that heads for the block in the world push_t, with correlated noise ("pushes")
    explorer: str = "noise"
    episodes: int = 100
    decisions: int = 500  # per episode; of an expert, the most that it may take
    worlds: int = 10  # simulated side by side; scripted arms: at most as many processes as there are cores
    starts: tuple[str, ...] = ()  # kinds of start, one batch of episodes each in turn; () = the world's own
    correlation: float = 5.0  # decisions over which noise is correlated
    scale: float = 1.0  # standard deviation of noise actions before clipping
    explorer_config: rnd.Config = rnd.Config()
    updates: int = 250  # RND updates per batch of episodes
    batch_size: int = 256  # of RND updates
    policy: str = ""  # the run or model that has goals or skills
    latent_hold: int = 50  # decisions until its next one
    hold: int | None = None  # control steps per decision; None = the world's default
    seed: int = 0
    randomise: str = "none"  # level of domain randomisation: "none", "standard" or "hard"
    pixels: int = 0  # side of the frames that are drawn of each state; 0 = none

    def __post_init__(self) -> None:
        check_choice("collect", "randomise", self.randomise, tuple(LEVELS))
        check_choice("collect", "explorer", self.explorer, EXPLORERS)
        check_ranges("collect", self, COLLECT_RANGES)
        if bool(self.policy) != (self.explorer in PROMPTED):
            wanted = "left out" if self.policy else "a run or a model"
            raise InputError(f"collect: explorer '{self.explorer}' needs policy to be {wanted}, got '{self.policy}'")
        if self.episodes % self.worlds:
            raise InputError(f"collect: episodes ({self.episodes}) must be a multiple of worlds ({self.worlds})")
