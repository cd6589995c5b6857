r"""Labels by a boosted ensemble of weak experts, with every expert's vote; it abstains where they disagree.

    curl http://127.0.0.1:8000/supervision/v1/supervision/label -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"texts": ["scientists unveil doomsday clock of hair loss"], "abstain_below": 0.6, "votes": true}'

Agreement is no probability of being right: experts may agree and all be wrong. Choose a threshold on texts whose labels
you know.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from ray import serve

from rayworks.systems.supervision.exported import Label, read_export

from ..common.access import Caller
from ..common.application import new_application
from ..common.served_run import LargestBatch, ServedRun, ServingArgs, bind
from . import supervision_schemas as schemas

api = new_application("supervision", "Labels by ensembles of weak experts.")
PROBE = ["a text"]


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/supervision/smoke/export", description="export folder of a finished run")
    trusted: list[str] = Field(
        [],
        description="what an export may load: a model that gives features or is the base of adapters, as MODEL@LAYERS, or "
        "MODEL where all its layers are kept; or your function, as module:function",
    )
    abstain_below: float = Field(0.0, ge=0, le=1, description="agreement under which a text gets no label")
    largest_batch: LargestBatch = 32


@serve.deployment(name="experts")
@serve.ingress(api)
class Supervision(ServedRun):
    """The experts of a finished run behind HTTP."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        self._threshold = args.abstain_below
        self._experts = read_export(args.export, args.trusted)
        self._labelling = self.batching(self._label, args.largest_batch)

    async def check(self) -> None:
        """Label a text."""
        await asyncio.to_thread(self._experts.label, PROBE)

    def state(self) -> dict[str, Any]:
        """The load, and what is loaded."""
        return {**super().state(), "experts": len(self._experts.alphas), "classes": list(self._experts.classes)}

    @api.post("/v1/supervision/label")
    async def label(self, body: schemas.LabelBody, owner: Caller) -> schemas.LabelAnswer:
        """A label for every text, its probabilities, and how far the experts agree."""
        found = await self._labelling.ask(body.texts)
        threshold = self._threshold if body.abstain_below is None else body.abstain_below
        labels = [self._answer(one, threshold, body.votes) for one in found]
        abstained = sum(one.label is None for one in labels)
        return schemas.LabelAnswer(labels=labels, experts=len(self._experts.alphas), abstained=abstained)

    def _label(self, questions: Sequence[list[str]]) -> list[list[Label]]:
        """All texts of several requests at once."""
        found = iter(self._experts.label([text for texts in questions for text in texts]))
        return [[next(found) for _ in texts] for texts in questions]

    def _answer(self, found: Label, threshold: float, with_votes: bool) -> schemas.TextLabel:
        alphas = self._experts.alphas
        votes = [
            schemas.Vote(label=one, weight=alpha / sum(alphas)) for one, alpha in zip(found.votes, alphas, strict=True)
        ]
        return schemas.TextLabel(
            label=found.label if found.agreement >= threshold else None,
            probabilities=found.probabilities,
            agreement=found.agreement,
            entropy=found.entropy,
            votes=votes if with_votes else None,
        )


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.supervision:build``."""
    return bind(Supervision, args, together=args.largest_batch)
