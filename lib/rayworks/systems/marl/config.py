"""Settings of a marl run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayworks.core.config import Section

NetworkKind = Literal["e2gn2-last", "e2gn2", "egnn", "gnn", "mlp", "penguin"]
GROUPS_OF_MPE = ("adversary", "agent")


class NetworkSection(Section):
    """Policy and value network; the kind is chosen in ``experiment.networks``."""

    hidden: int = Field(32, ge=1, le=1024, description="width of the graph networks")
    layers: int = Field(2, ge=1, le=8, description="rounds of messages; hidden layers of the MLP")
    perceptron_hidden: int = Field(64, ge=1, le=4096, description="width of the MLP")
    graph: Literal["team", "agent"] = Field(
        "team",
        description="one graph per step whose nodes decide for all agents, or one graph per agent with itself first",
    )
    frame: Literal["absolute", "own", "centroid"] = Field(
        "absolute", description="origin of coordinates: centre of the map, the agent (needs graph: agent), the mean"
    )
    velocity: Literal["channel", "tip", "speed", "none"] = Field(
        "channel",
        description="a second vector beside the position, a node at its tip, its length as a feature, or unused; "
        "the paper is silent",
    )
    mean_messages: bool = Field(
        False, description="h from the mean instead of the sum of messages, which does not grow with the entities"
    )
    target_decoder: Literal["edge", "node"] = Field(
        "edge", description="target logits from the agent's message to it, or from the target's own node (the paper)"
    )
    critic: Literal["own", "central"] = Field(
        "own", description="values from what the policy sees, or from one graph of everything (MAPPO)"
    )
    vector_scale: float = Field(1.0, gt=0, description="start of the learned scale on the policy's vector")
    log_deviation: float = Field(-0.5, ge=-5, le=2, description="start of the log standard deviation of vector actions")
    symmetrise: Literal["none", "average", "canonical"] = Field(
        "none",
        description="make any network symmetric from outside: average over quarter turns and reflections, or turn "
        "each agent's view by its own velocity (needs graph: agent)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.graph == "team":
            if self.frame == "own":
                raise ValueError("network.frame: own needs network.graph agent; a team's graph has many agents")
            if self.symmetrise == "canonical":
                raise ValueError("network.symmetrise: canonical needs network.graph agent")
        return self
