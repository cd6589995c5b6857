"""Guided decoding: ``pi(v|s) ~ pi_b(v|s) prod_i pi_r,i(v|s)^a_i``, token by token (GenARM, arXiv 2410.08193, equation 7).

In logits it is a weighted sum, taken in float32 before temperature and truncation. Each step also reports

* ``log_z``: log of the step's normaliser ``Z_t = sum_v pi_b(v) prod_i pi_r,i(v)^a_i``, and
* ``kl``: KL(pi(.|s_t) || pi_b(.|s_t)), exact over the vocabulary, of the distribution before temperature and truncation. At
  temperature 1 without truncation its sum over tokens is an unbiased estimate of the KL of the sequence distributions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.adapters import BASE, base_of_adapter, is_adapter
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer, prepare
from rayworks.lm.continuous_batching import ContinuousBatching
from rayworks.lm.decoding import Decoding
from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest, require_list
from rayworks.lm.rows import Mixed, Row
from rayworks.lm.scoring import encode_prompt, score_responses
from rayworks.lm.transformers_engine import as_generation
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.vocabulary import common_id_range, describe


@dataclass(frozen=True, kw_only=True)
class GuidedRequest(GenerationRequest):
    """A continuation to draw under guidance."""

    guidance: Guidance = field(default_factory=Guidance)
    guide_prompts: Mapping[str, str] = field(default_factory=dict)
    """Objective to the prompt in that reward model's own template; the base's prompt where not given."""


@dataclass(frozen=True, kw_only=True)
class GuidedGeneration(Generation):
    """A continuation with the effect of guidance on it; all sequences have one entry per drawn token, end token included."""

    base_logprobs: tuple[float, ...]
    reward_logprobs: Mapping[str, tuple[float, ...]]
    """Objective to log pi_r of each token; 0 where its weight was 0 and the model did not run."""
    weights: Mapping[str, tuple[float, ...]]
    """Objective to the strength that was used at each token."""
    log_z: float
    kl_to_base: float


@dataclass(frozen=True)
class Guide:
    """A reward model's part in one step."""

    objective: str
    rows: Tensor
    """Indices of the rows it guides, ``[n]``."""
    strengths: Tensor
    """Their ``a_i``, ``[n]``, above 0."""
    logits: Tensor
    """``[n, vocabulary]``."""


def mix_logits(base: Tensor, guides: Sequence[Guide]) -> Tensor:
    """``base + sum_i a_i guide_i`` for each row; a row that no guide names keeps the base's logits bit for bit.

    ``[rows, vocabulary]`` float32, unnormalised; -inf (a forbidden token) stays -inf.
    """
    mixed = base
    for guide in guides:
        if len(guide.rows) == len(base):
            mixed = torch.addcmul(mixed, guide.strengths[:, None], guide.logits)
        else:
            mixed = mixed.index_add(0, guide.rows, guide.strengths[:, None] * guide.logits)
    return mixed


def describe_step(base: Tensor, guides: Sequence[Guide], mixed: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Measures of one step of guidance.

    Args:
        base: ``[rows, vocabulary]`` logits.
        mixed: what :func:`mix_logits` made of them.
        tokens: ``[rows]``, drawn.

    Returns:
        ``[rows]`` each: log-probability of the token under the guided distribution and under the base, ``log_z``, ``kl``,
        and per objective ``reward_logprob:NAME`` and ``weight:NAME``. Rows without guidance have exactly 0 for the last four.
    """
    base_log_norm = base.logsumexp(dim=-1)
    base_logprob = base.gather(-1, tokens[:, None])[:, 0] - base_log_norm
    zeros = torch.zeros_like(base_logprob)
    if not guides:
        return {"logprob": base_logprob, "base_logprob": base_logprob, "log_z": zeros, "kl": zeros}
    guided = torch.zeros_like(zeros, dtype=torch.bool)
    log_z = mixed.logsumexp(dim=-1) - base_log_norm
    values = {}
    for guide in guides:
        guided[guide.rows] = True
        log_norm = guide.logits.logsumexp(dim=-1)
        log_z = log_z.index_add(0, guide.rows, -guide.strengths * log_norm)
        logprob = guide.logits.gather(-1, tokens[guide.rows][:, None])[:, 0] - log_norm
        values[f"reward_logprob:{guide.objective}"] = zeros.index_copy(0, guide.rows, logprob)
        values[f"weight:{guide.objective}"] = zeros.index_copy(0, guide.rows, guide.strengths)
    log_probs = mixed.log_softmax(dim=-1)
    # A forbidden token has no mass and adds nothing, where 0 * (-inf + inf) would be no number.
    ratio = torch.where(log_probs > -torch.inf, log_probs - (base - base_log_norm[:, None]), 0.0)
    kl = (log_probs.exp() * ratio).sum(dim=-1).clamp_(min=0.0)
    return {
        "logprob": torch.where(guided, log_probs.gather(-1, tokens[:, None])[:, 0], base_logprob),
        "base_logprob": base_logprob,
        "log_z": torch.where(guided, log_z, zeros),
        "kl": torch.where(guided, kl, zeros),
        **values,
    }


@dataclass
class RowGuidance:
    """What the mixer keeps for a row: its guidance, and the strengths of the token that it draws."""

    guidance: Guidance
    strengths: dict[str, float] = field(default_factory=dict)


class RewardMixer:
    """Mixes the base with the reward models that a row's guidance names: ``objectives``, in the order of the models after the
    base, over the ids below ``id_range`` that all models have in common.
    """

    def __init__(self, objectives: Sequence[str], id_range: int) -> None:
        self._objectives = list(objectives)
        self._range = id_range

    def guides(self, row: Row) -> Sequence[int]:
        """Reward models of non-zero weight at the row's next token. The weights are read here, once per token."""
        strengths = row.context.guidance.at(len(row.tokens))
        row.context.strengths = strengths
        return [1 + self._objectives.index(objective) for objective in strengths]

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """See :class:`~rayworks.lm.continuous_batching.LogitMixer`."""
        base = base[:, : self._range]
        used = []
        for model, (which, logits) in sorted(guides.items()):
            objective = self._objectives[model - 1]
            strengths = torch.tensor([rows[index].context.strengths[objective] for index in which.tolist()])
            device = base.device
            used.append(Guide(objective, which.to(device), strengths.to(device), logits[:, : self._range]))
        mixed = mix_logits(base, used)
        return Mixed(mixed, lambda tokens: describe_step(base, used, mixed, tokens))


class GuidedEngine:
    """A frozen base and its reward models in one process, decoded in lock-step with a cache each.

    Args:
        base: packaged name, local folder or ``hub:OWNER/NAME``.
        rewards: objective to the model of its ARM; those that are adapters of the base run as rows of it.
        dtype: of the base; reward models are float32 unless the base is not.
        prefix_gib: most memory per model of beginnings that prompts share, in GiB.

    Raises:
        ConfigError: a reward model's tokenizer does not fit the base's.
        DataError: a model cannot be loaded.
    """

    def __init__(
        self,
        base: str,
        rewards: Mapping[str, str],
        dtype: str = "float32",
        slots: int = 16,
        device: str = "cpu",
        prefix_gib: float = 0.5,
    ) -> None:
        self.tokenizer = load_tokenizer(base)
        self.objectives = list(rewards)
        of_base = [name for name, model in rewards.items() if is_adapter_of(model, base)]
        whole = CausalModel(
            load_model(base, dtype, device=device), slots * (1 + len(of_base)), prefix_gib, len(of_base)
        )
        self.models, self._adapters = [whole], [BASE]
        for objective, name in rewards.items():
            if objective in of_base:
                self.models.append(whole)
                self._adapters.append(whole.adapters.add(objective, name))
            else:
                self.models.append(CausalModel(load_model(name, dtype, device=device), slots, prefix_gib))
                self._adapters.append(BASE)
        names = (base, *rewards.values())
        self.id_range = common_ids(*((name, m.vocabulary_size) for name, m in zip(names, self.models, strict=True)))
        self.max_length = min(model.max_length for model in self.models)
        mixer = RewardMixer(self.objectives, self.id_range)
        self.decoding: Decoding = ContinuousBatching(self.models, self.tokenizer, mixer, slots)

    def row(self, request: GenerationRequest, prompts: tuple[tuple[int, ...], ...] | None = None) -> Row:
        """The request as a row of :attr:`decoding`, for callers that step themselves.

        ``prompts`` are its ids per model where they are known already, as from another row of the same prompt.

        Raises:
            ConfigError: its guidance names an objective without a reward model.
        """
        guidance = request.guidance if isinstance(request, GuidedRequest) else Guidance()
        self.require_known(guidance.objectives)
        if prompts is not None:
            return Row(request, prompts, RowGuidance(guidance), tuple(self._adapters))
        own = request.guide_prompts if isinstance(request, GuidedRequest) else {}
        texts = [request.prompt, *(own.get(objective, request.prompt) for objective in self.objectives)]
        encoded = {text: encode_prompt(self.tokenizer, text) for text in dict.fromkeys(texts)}
        return Row(request, tuple(encoded[text] for text in texts), RowGuidance(guidance), tuple(self._adapters))

    def require_known(self, objectives: Sequence[str]) -> None:
        """Raise :class:`ConfigError` when one of ``objectives`` has no reward model."""
        unknown = sorted(set(objectives) - set(self.objectives))
        if unknown:
            raise ConfigError(
                f"guidance.{unknown[0]}: unknown objective; known: {', '.join(self.objectives) or 'none'}"
            )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GuidedGeneration]:
        """Draw one continuation per request, in the order of the requests."""
        require_list(requests)
        rows = [self.row(request) for request in requests]
        self.decoding.run(rows)
        return [as_guided_generation(row, self.objectives) for row in rows]

    def score(self, requests: Sequence[ScoringRequest], objective: str | None = None) -> list[Score]:
        """Score responses with the base, or with the reward model of an objective."""
        place = 0 if objective is None else 1 + self.objectives.index(objective)
        model = self.models[place]
        if self._adapters[place] != BASE:
            requests = [replace(request, adapter=objective) for request in requests]
        return score_responses(model.model, self.tokenizer, requests, model.adapters)


def common_ids(base: tuple[str, int], *rewards: tuple[str, int]) -> int:
    """Ids ``0 .. n-1`` that all models have in common; each is given by its name and the width of its logits.

    Raises:
        ConfigError: a reward model's tokenizer does not fit the base's.
    """
    (name, width), sizes = base, [base[1]]
    vocabulary = describe(name, load_tokenizer(name), width)
    # An adapter has its base's ids.
    own = [describe(name, load_tokenizer(name), width) for name, width in rewards if not is_adapter_of(name, base[0])]
    sizes += [common_id_range(vocabulary, reward) for reward in own]
    return min(sizes)


def as_guided_generation(row: Row, objectives: Sequence[str]) -> GuidedGeneration:
    """The result of a finished row."""

    def values(name: str) -> tuple[float, ...]:
        return tuple(report.get(name, 0.0) for report in row.reports)

    return GuidedGeneration(
        **vars(as_generation(row)),
        base_logprobs=values("base_logprob"),
        reward_logprobs={name: values(f"reward_logprob:{name}") for name in objectives},
        weights={name: values(f"weight:{name}") for name in objectives},
        log_z=sum(values("log_z")),
        kl_to_base=sum(values("kl")),
    )


def is_adapter_of(folder: str, base: str) -> bool:
    """Whether a folder holds an adapter of this very base, by whatever name; :class:`DataError` where it names none."""
    if not is_adapter(folder):
        return False
    named = base_of_adapter(folder)
    try:
        return named == base or prepare(named) == prepare(base)
    except DataError:
        return False
