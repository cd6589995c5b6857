"""Critics by the words of a config."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rayworks.core.config import EngineSection
from rayworks.core.errors import ConfigError
from rayworks.core.models import locate
from rayworks.core.registry import load
from rayworks.lm.decoding import Engine
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.reasoning.config import VERIFIER, CriticsSection
from rayworks.systems.reasoning.search.critics import Given, Head, Judgement, RewardModel, Verifier
from rayworks.systems.reasoning.search.requests import Critic, Kind
from rayworks.systems.reasoning.tasks.questions import Task

HEAD, HEAD_OF, JUDGE, REWARD = "head", "head:", "judge:", "reward:"
POLICY = "policy"
"""As the model of a judge: the policy itself."""
MODELS = (HEAD_OF, JUDGE, REWARD)
HEAD_SLOTS = 1
"""Critics score and never decode."""


def named_critics(section: CriticsSection) -> list[tuple[Kind, str, float]]:
    """The critics that a config names: kind, word and weight."""
    words: list[tuple[Kind, str | None, float]] = [
        ("value", section.value, section.value_weight),
        ("process", section.process, section.process_weight),
        ("outcome", section.outcome, section.outcome_weight),
    ]
    return [(kind, word, weight) for kind, word, weight in words if word is not None]


def check_critics(section: CriticsSection) -> None:
    """Whether all words are known, without loading a model.

    Raises:
        ConfigError: one is not.
    """
    allowed: dict[Kind, tuple[str, ...]] = {
        "value": (HEAD_OF,),
        "process": (HEAD, HEAD_OF, JUDGE, REWARD),
        "outcome": (VERIFIER, HEAD_OF, JUDGE),
    }
    for kind, word, _ in named_critics(section):
        if word in allowed[kind] or (word.startswith(MODELS) and word.partition(":")[0] + ":" in allowed[kind]):
            _require_there(kind, word)
            continue
        if ":" not in word or word.startswith(MODELS):
            of = {HEAD_OF: "FOLDER", JUDGE: "MODEL", REWARD: "FOLDER"}
            known = ", ".join(f"{one}{of.get(one, '')}" for one in allowed[kind])
            raise ConfigError(f"critics.{kind}: is {word!r}, must be {known} or your own module:function")
        _function(kind, word)


def _require_there(kind: Kind, word: str) -> None:
    name = word.partition(":")[2]
    if word.startswith((HEAD_OF, REWARD)) and not Path(name).expanduser().is_dir():
        raise ConfigError(f"critics.{kind}: {word!r} names no folder; give that of a finished run's export")
    if word.startswith(JUDGE) and name != POLICY:
        locate(name)


def open_critics(
    section: CriticsSection,
    task: Task,
    policy: Callable[[], Engine],
    tokenizer: PreTrainedTokenizerBase,
    engine: EngineSection,
    head: Path | None,
    device: str,
    step_head: Path | None = None,
) -> list[Critic]:
    """The critics of a config.

    Args:
        policy: opens what draws, where a judge is to be it.
        tokenizer: of the policy; a reward model must have its token ids.
        head: folder of the head that was trained on outcomes, with its model, where there is one.
        step_head: the same of the head that was trained on labelled steps, which alone judges steps.

    Raises:
        ConfigError: a critic is unknown, or there is no head yet.
        DataError: a model cannot be loaded.
    """
    found: list[Critic] = []
    heads: dict[Path, TransformersEngine] = {}
    for kind, word, weight in named_critics(section):
        if word == VERIFIER:
            found.append(Verifier(task, weight))
        elif word == HEAD or word.startswith(HEAD_OF):
            trained = step_head if kind == "process" else head
            folder = trained if word == HEAD else Path(word.removeprefix(HEAD_OF)).expanduser()
            if folder is None:
                raise ConfigError(f"critics.{kind}: no head is trained yet; the first round needs another critic")
            if folder not in heads:
                heads[folder] = TransformersEngine(str(folder), slots=HEAD_SLOTS, device=device)
                heads[folder].add_head(HEAD, folder / HEAD)
            found.append(Head(heads[folder], HEAD, kind, weight))
        elif word.startswith(JUDGE):
            name = word.removeprefix(JUDGE)
            found.append(Judgement(policy() if name == POLICY else _engine(engine, name, device), kind, weight))
        elif word.startswith(REWARD):
            name = word.removeprefix(REWARD)
            model = _engine(engine, name, device)
            if model.tokenizer.get_vocab() != tokenizer.get_vocab():
                raise ConfigError(
                    f"critics.{kind}: {name!r} has other token ids than the policy; take one of its family"
                )
            found.append(RewardModel(model, weight))
        else:
            found.append(Given(_function(kind, word), kind, weight))
    return found


def _engine(section: EngineSection, name: str, device: str) -> Engine:
    return TransformersEngine(name, slots=HEAD_SLOTS, device=device, prefix_gib=section.prefix_gib)


def _function(kind: Kind, word: str) -> Callable[[Sequence[str], Sequence[str]], Sequence[float]]:
    try:
        function: Callable[[Sequence[str], Sequence[str]], Sequence[float]] = load(word)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"critics.{kind}: {word!r} cannot be imported ({error}); give module:function") from None
    if not callable(function):
        raise ConfigError(f"critics.{kind}: {word!r} is no function; give module:function")
    return function
