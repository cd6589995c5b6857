"""Settings of a marl run."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rayworks.core.config import RESUME_SAFE, ScopeSection, Section, SystemConfig

Stage = Literal["certificate", "bias", "training", "generalisation", "episodes"]
STAGES: tuple[Stage, ...] = ("certificate", "bias", "training", "generalisation", "episodes")
"""The stages in the order in which they run."""
BATTLE_ONLY = ("starts", "fully_observable", "field_of_view")
MPE_ONLY = ("agents", "opponents", "landmarks")
LARGEST_MAP, MOST_AGENTS = 8.0, 64
NetworkKind = Literal["e2gn2-last", "e2gn2", "egnn", "gnn", "mlp", "penguin"]


class NetworkSection(Section):
    """Policy and value network; the kind is chosen in ``experiment.networks``."""

    hidden: int = Field(32, ge=1, le=1024, description="width of the graph networks")
    layers: int = Field(2, ge=1, le=8, description="rounds of messages; hidden layers of the MLP")
    mlp_hidden: int = Field(64, ge=1, le=4096, description="width of the MLP")
    graph: Literal["team", "agent"] = Field(
        "team",
        description="one graph per step whose nodes decide for all agents, or one graph per agent with itself first",
    )
    frame: Literal["absolute", "own", "centroid"] = Field(
        "absolute",
        description="origin of coordinates: centre of the map, the agent (needs graph: agent; a central critic takes "
        "the mean), the mean of what some agent sees",
    )
    velocity: Literal["channel", "tip", "speed", "none"] = Field(
        "channel",
        description="a second vector beside the position, a node at the tip of each team mate's (others' are unused), "
        "its length as a feature, or unused; the MLP takes it raw but for the last two; the paper is silent",
    )
    messages: Literal["dense", "sparse"] = Field(
        "dense", description="all pairs at once, or the edges that exist by torch-geometric: for large, sparse graphs"
    )
    mean_messages: bool = Field(
        False, description="h from the mean instead of the sum of messages, which does not grow with the entities"
    )
    target_decoder: Literal["edge", "node"] = Field(
        "edge", description="target logits from the agent's message to it, or from the target's own node (the paper)"
    )
    critic: Literal["own", "central"] = Field(
        "own", description="values from what the policy sees, or from everything at once (MAPPO)"
    )
    vector_bound: float | None = Field(
        5.0,
        gt=0,
        description="greatest length of the policy's vector, by tanh of its length, which no rotation notices",
    )
    vector_scale: float = Field(1.0, gt=0, description="start of the learned scale on the policy's vector")
    log_std_init: float = Field(-0.5, ge=-5, le=2, description="initial log standard deviation of vector actions")
    symmetrise: Literal["none", "average", "canonical"] = Field(
        "none",
        description="make any network symmetric from outside: average over quarter turns and reflections, or turn "
        "each agent's view by its own velocity, else by where others are (needs graph: agent); where everything is "
        "balanced around an agent, canonical is exact for quarter turns and reflections only",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.graph == "team":
            if self.frame == "own":
                raise ValueError("network.frame: own needs network.graph agent; a team's graph has many agents")
            if self.symmetrise == "canonical":
                raise ValueError("network.symmetrise: canonical needs network.graph agent")
        if self.symmetrise == "canonical" and self.critic == "central":
            raise ValueError("network.critic: central has no agent whose view could be turned; canonical needs own")
        return self


class EnvironmentSection(Section):
    """The game; a setting that it does not have is refused."""

    name: str = Field(
        "mpe/simple_spread",
        description="mpe/SCENARIO (vectorised), mpe2/SCENARIO (the reference, slow), battle/RACE_N_vs_M, smacv2/RACE_N_vs_M",
    )
    actions: Literal["discrete", "vectors"] = Field(
        "discrete", description="choices, or forces in the plane (mpe only; the paper's MPE setting is not public)"
    )
    horizon: int | None = Field(None, ge=1, description="steps of an episode; null: 25 in MPE, 200 in battles")
    side: Literal["all", "left", "right", "top", "bottom"] = Field(
        "all", description="where things begin: the half of MPE's map, or the side that a battle's enemies come from"
    )
    map_scale: float = Field(1.0, gt=0, le=LARGEST_MAP, description="size of the map over the usual")
    agents: int | None = Field(
        None, ge=1, le=MOST_AGENTS, description="mpe: agents of the first team; null: the scenario's"
    )
    opponents: int | None = Field(None, ge=1, le=64, description="mpe: agents of the other team")
    landmarks: int | None = Field(None, ge=1, le=64, description="mpe: landmarks")
    starts: Literal["surrounded_and_reflect", "surrounded", "reflect"] = Field(
        "surrounded_and_reflect", description="battle: start positions"
    )
    fully_observable: bool = Field(True, description="battle: all living units are seen; else those in sight")
    field_of_view: float | None = Field(None, gt=0, le=360, description="battle: degrees around the last move")

    def usual_tests(self) -> dict[str, dict[str, Any]]:
        """Changes that a policy should survive: a larger map and, where numbers are free, more agents."""
        family, _, name = self.name.partition("/")
        if family not in ("mpe", "battle"):
            return {}
        tests: dict[str, dict[str, Any]] = {}
        if self.map_scale < LARGEST_MAP:
            tests["larger map"] = {"map_scale": min(1.5 * self.map_scale, LARGEST_MAP)}
        usual = {"simple_spread": 3, "simple_adversary": 2}
        if family == "mpe" and name in usual:
            before = self.agents or usual[name]
            more = min(before + 2, MOST_AGENTS)
            if more > before:
                tests[f"{more} agents"] = {"agents": more}
        return tests

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        family = self.name.partition("/")[0]
        foreign = {
            "mpe": BATTLE_ONLY,
            "mpe2": (*BATTLE_ONLY, *MPE_ONLY, "side", "map_scale"),
            "battle": MPE_ONLY,
            "smacv2": (*MPE_ONLY, "map_scale", "field_of_view"),
        }
        if family not in foreign:
            raise ValueError(
                f"environment.name: {self.name!r} begins with none of {', '.join(f'{f}/' for f in foreign)}"
            )
        fields = type(self).model_fields
        for name in foreign[family]:
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"environment.{name}: {family} environments have no such setting")
        if self.actions == "vectors" and family in ("battle", "smacv2"):
            raise ValueError("environment.actions: battles have choices only; use discrete")
        return self


class TrainingSection(Section):
    """PPO, the same for every kind of network. The paper's hyperparameters are not public."""

    steps: int = Field(60_000, ge=1, description="environment steps of one training")
    learning_rate: float = Field(5e-4, gt=0, description="Adam learning rate")
    gamma: float = Field(0.99, gt=0, le=1, description="discount factor")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="decay of generalised advantage estimates")
    clip_range: float = Field(0.2, gt=0, lt=1, description="clipping of the probability ratio")
    entropy_coef: float = Field(0.01, ge=0, description="weight of the entropy bonus")
    value_clip: float = Field(
        1e4, gt=0, description="squared value errors beyond this give no gradient, in learned units"
    )
    max_grad_norm: float = Field(10.0, gt=0, description="global norm that gradients are clipped to")
    epochs: int = Field(4, ge=1, description="passes over the steps of an iteration")
    minibatch_size: int = Field(750, ge=1, description="agent steps per update")
    normalise_values: bool = Field(True, description="learn values in units of the returns' running spread")
    augment: bool = Field(
        False, description="turn each scene of a batch at random, as a baseline that learns symmetry from data"
    )
    policies: Literal["team", "shared"] = Field(
        "team", description="one policy per team, or one for all teams of the same shape"
    )


class SamplingSection(Section):
    """How steps are sampled. Results do not depend on the number of runners."""

    groups: int = Field(2, ge=1, le=1024, description="groups of environments; each is played by one runner at a time")
    num_envs: int = Field(50, ge=1, le=100_000, description="environments of a group, stepped at once")
    steps: int = Field(25, ge=1, description="steps of every environment in an iteration")
    runners: int = Field(
        0,
        ge=0,
        le=256,
        description="RLlib env runners besides the trainer; 0: it samples itself",
        json_schema_extra=RESUME_SAFE,
    )

    @property
    def per_iteration(self) -> int:
        """Environment steps of an iteration."""
        return self.groups * self.num_envs * self.steps


class ExperimentSection(Section):
    """The networks compared, and how."""

    networks: tuple[NetworkKind, ...] = Field(
        ("e2gn2-last", "e2gn2", "egnn", "gnn", "mlp"),
        min_length=1,
        description="networks to compare; the first is the headline's",
    )
    seeds: int = Field(5, ge=1, le=1000, description="trainings of each network")
    iterations_per_call: int = Field(
        8, ge=1, description="iterations between two checkpoints", json_schema_extra=RESUME_SAFE
    )
    evaluation_episodes: int = Field(
        200, ge=1, description="episodes of an evaluation, one per environment; in smacv2 one after the other"
    )
    threshold: float | None = Field(
        None, description="return that counts as learned; null: half of what the headline's network gained"
    )
    resamples: int = Field(2000, ge=10, le=100_000, description="bootstrap resamples behind intervals")
    certificate_scenes: int = Field(64, ge=1, description="scenes that each certificate tries")
    initialisations: int = Field(12, ge=2, description="untrained networks behind the bias curves")
    episodes: int = Field(2, ge=0, le=20, description="episodes to film")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.networks)) < len(self.networks):
            raise ValueError("experiment.networks: one is named twice; name each once and ask for more seeds")
        return self


class GeneralisationSection(Section):
    """Environments unseen in training, as changes of ``environment``."""

    tests: dict[str, dict[str, Any]] | None = Field(
        None,
        description="name to changed settings; null: a larger map and, where numbers are free, more agents (mpe, battle)",
    )


class Scope(ScopeSection):
    """Stages of the run."""

    needed = "training"
    stages: tuple[Stage, ...] = Field(STAGES, min_length=1, description="stages to run; the last two need training")


class Config(SystemConfig):
    """Settings of one run."""

    renamed = {
        "network.perceptron_hidden": "network.mlp_hidden",
        "network.log_deviation": "network.log_std_init",
        "training.discount": "training.gamma",
        "training.trace": "training.gae_lambda",
        "training.clip": "training.clip_range",
        "training.entropy": "training.entropy_coef",
        "training.gradient_norm": "training.max_grad_norm",
        "training.minibatch": "training.minibatch_size",
        "sampling.copies": "sampling.num_envs",
        "experiment.evaluation_copies": "experiment.evaluation_episodes",
    }

    scope: Scope = Scope()
    environment: EnvironmentSection = EnvironmentSection()
    network: NetworkSection = NetworkSection()
    training: TrainingSection = TrainingSection()
    sampling: SamplingSection = SamplingSection()
    experiment: ExperimentSection = ExperimentSection()
    generalisation: GeneralisationSection = GeneralisationSection()

    def tests(self) -> dict[str, EnvironmentSection]:
        """The environments of the generalisation tests by name."""
        chosen = self.generalisation.tests
        tests = self.environment.usual_tests() if chosen is None else chosen
        return {
            name: EnvironmentSection.model_validate({**self.environment.model_dump(), **changes})
            for name, changes in tests.items()
        }

    @property
    def iterations(self) -> int:
        """Iterations of a training: as many as reach ``training.steps``."""
        return -(-self.training.steps // self.sampling.per_iteration)

    @model_validator(mode="after")
    def _tests_are_environments(self) -> Self:
        for name, changes in (self.generalisation.tests or {}).items():
            unknown = [field for field in changes if field not in EnvironmentSection.model_fields]
            if unknown:
                raise ValueError(f"generalisation.tests.{name}: {unknown[0]} is not a setting of environment")
        self.tests()
        return self
