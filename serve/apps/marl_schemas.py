"""Requests and answers of the marl application, with bounds and examples."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from ..common.body import Body

MOST_ENTITIES, MOST_SCENES, MOST_NAMES = 512, 1024, 64
FARTHEST = 1e3
"""Largest coordinate; squares of much larger ones leave float32."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-FARTHEST, le=FARTHEST)]
Vector = tuple[Coordinate, Coordinate]
Index = Annotated[int, Field(ge=0, description="index of an entity in the scene's list")]
Indices = Annotated[list[Index], Field(max_length=MOST_ENTITIES)]

EXAMPLE_SCENE = {
    "entities": [
        {"kind": "agent", "position": [0.2, -0.4], "velocity": [0.0, 0.1]},
        {"kind": "agent", "position": [-0.5, 0.3]},
        {"kind": "agent", "position": [0.1, 0.8]},
        {"kind": "landmark", "position": [0.9, 0.0]},
        {"kind": "landmark", "position": [-0.9, 0.1]},
        {"kind": "landmark", "position": [0.0, -0.7]},
    ]
}


class Limits(Body):
    """Limits of one request."""

    scenes: int = Field(64, ge=1, le=MOST_SCENES, description="scenes of a request")
    entities: int = Field(64, ge=1, le=MOST_ENTITIES, description="entities of a scene")


class Entity(Body):
    """An entity in the plane."""

    kind: str = Field(min_length=1, max_length=64, description="one of the card's kinds; those of the team act")
    position: Vector = Field(description="from the centre of the map, its half-width about 1")
    velocity: Vector = Field((0.0, 0.0), description="velocity in the same units per unit of time")
    features: dict[str, Number] = Field(
        {}, description="invariant features by the card's names; those that name a kind are set by it, others are 0"
    )
    present: bool = Field(True, description="false: dead or absent; it keeps its place and is ignored")


class SceneBody(Body):
    """A team's observation at one step."""

    entities: list[Entity] = Field(min_length=1, max_length=MOST_ENTITIES)
    sees: dict[int, Indices] | None = Field(
        None,
        max_length=MOST_ENTITIES,
        description="acting entity to the entities it sees; one that is not named sees all",
    )
    targets: dict[int, Indices] | None = Field(
        None,
        max_length=MOST_ENTITIES,
        description="acting entity to those it may act on now, where the game has targets; not named: none",
    )
    forbidden: dict[int, Annotated[list[str], Field(max_length=MOST_NAMES)]] | None = Field(
        None,
        max_length=MOST_ENTITIES,
        description="acting entity to the names of actions without target that it may not take now",
    )


class ActBody(Body):
    """Scenes to act in."""

    team: str | None = Field(None, description="one of the card's teams; may be left out where there is one")
    scenes: list[SceneBody] = Field(min_length=1, max_length=MOST_SCENES, examples=[[EXAMPLE_SCENE]])
    mode: Literal["best", "sample"] = Field("best", description="the most probable action, or one drawn")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of sampled actions: equal scenes and seeds, equal actions")

    @model_validator(mode="after")
    def _names_that_are_there(self) -> Self:
        for number, scene in enumerate(self.scenes):
            count = len(scene.entities)
            for field in ("sees", "targets", "forbidden"):
                named: dict[int, list[Any]] = getattr(scene, field) or {}
                indices = [*named, *(p for some in named.values() for p in some if isinstance(p, int))]
                if any(not 0 <= index < count for index in indices):
                    raise ValueError(f"scenes.{number}.{field}: names an entity beyond the {count} of the scene")
        return self


class Action(BaseModel):
    """The action of one agent."""

    entity: int = Field(description="its index in the scene's list")
    action: str = Field(description="a name of the card's actions, or vector")
    target: int | None = Field(description="index of the entity it is about, for target actions")
    vector: tuple[float, float] | None = Field(description="the force, of length at most 1, for vector actions")
    probability: float | None = Field(description="probability of the action under the policy; null for vectors")
    value: float = Field(description="expected return of the agent from here, discounted")


class SceneAnswer(BaseModel):
    """Actions of the present agents of a scene, in the order of its list."""

    actions: list[Action]


class ActAnswer(BaseModel):
    """Actions in the order of the scenes asked."""

    team: str
    scenes: list[SceneAnswer]


class TeamCard(BaseModel):
    """What a team's scenes must look like, and what its policy respects."""

    agents: int = Field(description="agents in training")
    kinds: list[str] = Field(description="kinds of entities; the first ones act")
    acting_kinds: list[str]
    features: list[str]
    actions: list[str]
    symmetries: list[str] = Field(description="groups the policy respects by construction")
    errors: dict[str, float] = Field(description="largest error measured under each group, trained, float32")
    other_sizes: bool = Field(description="whether it acts with other numbers of entities than in training")


class PolicyCard(BaseModel):
    """The policy behind the application."""

    network: str
    environment: str
    frame: str = Field(description="origin of the turns that it respects")
    teams: dict[str, TeamCard]
    limits: Limits
