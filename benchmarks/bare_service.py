"""An empty route behind Ray Serve: what a request costs before an application does anything."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from ray import serve

api = FastAPI()


class Args(BaseModel):
    """What the Serve config may set."""

    replicas: int = Field(2, ge=1)
    num_cpus: float = Field(0.25, ge=0)


@serve.deployment(name="bare", max_ongoing_requests=1000)
@serve.ingress(api)
class Bare:
    """Answers, and that is all."""

    @api.post("/")
    async def nothing(self, body: dict[str, Any]) -> dict[str, Any]:
        """The same each time."""
        return {}


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``benchmarks.bare_service:build``."""
    options = {"num_replicas": args.replicas, "ray_actor_options": {"num_cpus": args.num_cpus}}
    application: serve.Application = Bare.options(**options).bind()  # type: ignore[attr-defined]  # a deployment
    return application
