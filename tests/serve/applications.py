"""For each system, the applications that the Serve tests talk to: name to arguments, with their exports made in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayworks.core import config as configs
from rayworks.core import seeds
from rayworks.systems.augmentation import exported as augmentation_export
from rayworks.systems.augmentation.config import Config as AugmentationConfig
from rayworks.systems.augmentation.data.samples import read as read_samples
from rayworks.systems.augmentation.opening import Opened as AugmentationOpened
from rayworks.systems.augmentation.training.nets import network as augmentation_network
from rayworks.systems.difficulty import exported as difficulty_export
from rayworks.systems.difficulty.calibration import calibrate
from rayworks.systems.difficulty.config import Config as DifficultyConfig
from rayworks.systems.difficulty.item_response.curves import ItemParameters, simulate
from rayworks.systems.difficulty.responses.response_store import from_matrix
from rayworks.systems.difficulty.responses.sources import ResponseSet
from rayworks.systems.federation import exported as federation_export
from rayworks.systems.federation.config import Config as FederationConfig
from rayworks.systems.federation.training.classifiers import classifier_of
from rayworks.systems.federation.training.local_training import weights_of
from rayworks.systems.marl import exported as marl_export
from rayworks.systems.marl.config import Config as MarlConfig
from rayworks.systems.marl.config import NetworkKind
from rayworks.systems.marl.environments.registry import team_specs
from rayworks.systems.marl.findings.certificates import certificates
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from rayworks.systems.recommendation.exported import Exported, write_export
from rayworks.systems.recommendation.logs.events import NATURAL
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.histories import Histories
from rayworks.systems.refusal.exported import ExportedRefusals
from rayworks.systems.refusal.exported import write_export as write_judge
from rayworks.systems.refusal.judging.calibration import shipped_judge
from rayworks.systems.regulation import exported as regulation_export
from rayworks.systems.regulation.config import AuctionSection
from rayworks.systems.regulation.design import make_design
from rayworks.systems.regulation.price_curve import published_curve
from rayworks.systems.supervision.config import WeakSection
from rayworks.systems.supervision.exported import AdapterVoters, ArrayVoters, ExportedEnsemble
from rayworks.systems.supervision.exported import write_export as write_ensemble
from rayworks.systems.supervision.tasks.labelled import labelled
from rayworks.systems.supervision.weak.adapters import AdapterBase, ClassExperts
from rayworks.systems.supervision.weak.classifiers import fit_expert
from rayworks.systems.supervision.weak.features import features_named
from tests.conftest import FinishedRun
from tests.small_augmentation import save_rows
from tests.small_headlines import headlines
from tests.tiny_models import save_tiny_model

Runs = Callable[[str], FinishedRun]
Arguments = dict[str, dict[str, Any]]

ITEMS = [f"q{number:02d}" for number in range(20)]
CARD = {
    "source": "made up", "method": "balanced", "rounds": 3, "clients": 4, "accuracy": 0.5, "accuracies": [0.5, 0.6],
    "epsilon": None, "epsilon_updates": 1.5, "statement": "nothing is promised",
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {"grey": (1, 8, 8), "coloured": (3, 16, 16), "tabular": (5,)}
SPREAD = {"environment": {"name": "mpe/simple_spread", "actions": "vectors"}}
BATTLE = {"environment": {"name": "battle/terran_3_vs_3"}}
ORIGIN = "https://mine.example"
"""Of pages that may ask alignment from a browser."""
CATALOGUE = [f"i{number}" for number in range(30)]
HOLDS = 15
"""Events that the acceptance models hold."""
SECTION = AuctionSection(distribution="beta22", price=0.6, mode="fixed_point")


def alignment(folder: Path, finished_runs: Runs) -> Arguments:
    """The smallest run's models, one slot, and a queue that holds all rows of one request but the last."""
    export = str(finished_runs("alignment").directory / "export")
    limits = {"slots": 1, "max_waiting": 14, "max_prompt_tokens": 60, "concurrent_per_key": 64}
    return {"alignment": {"export": export, "deadline_seconds": 120, "allowed_origins": [ORIGIN], **limits}}


def difficulty(folder: Path, finished_runs: Runs) -> Arguments:
    """One of a calibrated set, and one without a calibration and with a short queue."""
    responses = from_matrix(simulated(200, 20), items=ITEMS)
    config = configs.resolve(DifficultyConfig, overrides={"uncertainty.split_halves": 1, "data.focal": {}})
    found = calibrate("simulated", ResponseSet(responses, {"q00": "easiest"}, responses.table(), "simulated"), config)
    (folder / "export" / "simulated").mkdir(parents=True)
    difficulty_export.write_export(difficulty_export.exported_sets({"simulated": found}), _writer(folder / "export"))
    settings = {
        "uncertainty.bootstrap": 2,
        "uncertainty.split_halves": 1,
        "adaptive_tests.sizes": [2],
        "compute.workers": 1,
    }
    shared = {"spool": str(folder / "spool")}
    return {
        "difficulty": {
            **{**shared, "export": str(folder / "export"), "inline_cells": 5000},
            **{"job_settings": settings, "jobs_per_key": 1},
        },
        "difficulty-narrow": {
            **{**shared, "max_waiting": 0, "deadline_seconds": 4, "concurrent_per_key": 6},
            **{"inline_parameters": 360, "job_settings": {"surprise.setting": 1}},
        },
    }


def simulated(subjects: int, items: int, seed: int = 0) -> np.ndarray:
    """Responses of a Rasch model."""
    generator = np.random.default_rng(seed)
    parameters = ItemParameters.from_difficulty("1PL", np.linspace(-1.5, 1.5, items))
    return simulate(parameters, generator.normal(size=subjects), generator.random((subjects, items)))


def augmentation(folder: Path, finished_runs: Runs) -> Arguments:
    """Untrained models of digits and of a table."""
    arguments: Arguments = {}
    sources = {"digits": "digits", "table": save_rows(folder / "rows.csv", 240)}
    for name, source in sources.items():
        section = {
            "data.source": source,
            "data.training": 100,
            "data.trusted": 20,
            "data.selection": 40,
            "training.width": 2,
        }
        config = configs.resolve(AugmentationConfig, overrides=section)
        opened = AugmentationOpened(config, read_samples(source), 0)
        shape, classes = tuple(opened.splits.training.inputs.shape[1:]), opened.splits.classes
        model = augmentation_network(shape, len(classes), 2, 0, config.training.network)
        card = {**dict.fromkeys(augmentation_export.CARD, "made up"), "seeds": 1, "noise_auc": None}
        card |= {"accuracy": 0.5, "accuracy_of_model": 0.4}
        (folder / name).mkdir()
        exported = augmentation_export.exported_model(config, model, opened, card)
        augmentation_export.write_export(exported, _writer(folder / name))
        arguments[f"augmentation-{name}"] = {"export": str(folder / name), "limits": {"inputs": 4}}
    return arguments


def federation(folder: Path, finished_runs: Runs) -> Arguments:
    """Untrained models of three labels for three shapes of inputs."""
    config, arguments = FederationConfig(), {}
    for name, shape in SHAPES.items():
        (folder / name).mkdir()
        weights = weights_of(classifier_of(config, shape, 3, 7))
        exported = federation_export.exported_model(config, weights, shape, ("a", "b", "c"), CARD)
        federation_export.write_export(exported, _writer(folder / name))
        arguments[f"federation-{name}"] = {"export": str(folder / name), "limits": {"inputs": 4}}
    return arguments


def marl(folder: Path, finished_runs: Runs) -> Arguments:
    """Untrained policies of three kinds."""
    limits = {"scenes": 20, "entities": 12}
    return {
        "marl-spread": {"export": export_policy(folder / "spread", SPREAD, "e2gn2-last"), "limits": limits},
        "marl-battle": {"export": export_policy(folder / "battle", BATTLE, "e2gn2")},
        "marl-mlp": {"export": export_policy(folder / "mlp", SPREAD, "mlp")},
    }


def export_policy(folder: Path, settings: dict[str, Any], kind: NetworkKind) -> str:
    """An untrained policy."""
    config = MarlConfig.model_validate({**settings, "experiment": {"certificate_scenes": 4}})
    torch.manual_seed(0)
    weights = {}
    for team, spec in team_specs(config.environment).items():
        network = PolicyNetwork(kind, spec, config.network)
        network.value_scale.fill_(3.0)
        weights[team] = {name: value.numpy() for name, value in network.state_dict().items()}
    found = {
        team: {"errors": dict(one.errors), "claims": list(one.claims), "holds": one.holds}
        for team, one in certificates(config, kind, weights).items()
    }
    folder.mkdir()
    teams = team_specs(config.environment)
    exported = marl_export.ExportedPolicy(kind, config.environment, config.network, teams, weights, found)
    marl_export.write_export(exported, _writer(folder))
    return str(folder)


def reasoning(folder: Path, finished_runs: Runs) -> Arguments:
    """The smallest run's policy and head; and one without a head and with a short queue, of which long searches are jobs."""
    export = finished_runs("reasoning").directory / "export"
    headless = folder / "headless"
    shutil.copytree(export / "policy", headless / "policy")
    exported = json.loads((export / "reasoning.json").read_text())
    # Its root always has room, so that a search ends with its budget alone.
    search = {**exported["search"], "root_width": 10**6, "merges": 10**6}
    (headless / "reasoning.json").write_text(json.dumps({**exported, "head": False, "search": search}))
    budgets = {"job_simulations": 64, "most_simulations": 64, "most_tokens": 4000}
    return {
        "reasoning": {"export": str(export), "spool": str(folder / "spool"), **budgets},
        "reasoning-narrow": {
            **{"export": str(headless), "spool": str(folder / "spool"), "job_simulations": 5000, "slots": 1},
            **{"max_waiting": 1, "deadline_seconds": 3, "jobs_per_key": 1},
        },
    }


def recommendation(folder: Path, finished_runs: Runs) -> Arguments:
    """Four models of a small catalogue; and a slow one of a large catalogue with a short queue."""
    wide = [f"i{number}" for number in range(1000)]
    small = _acceptance_export(folder / "small", 4, AcceptanceOptions(30, HOLDS + 1, width=8), CATALOGUE)
    slow = _acceptance_export(folder / "slow", 1, AcceptanceOptions(1000, 400, width=32), wide)
    return {
        "recommendation": {"export": small},
        "recommendation-narrow": {
            **{"export": slow, "max_waiting": 0, "deadline_seconds": 4, "concurrent_per_key": 3},
            **{"limits": {"events": 4, "items": 10, "attributed": 1, "steps": 300, "rollouts": 2000}},
        },
    }


def _acceptance_export(folder: Path, count: int, options: AcceptanceOptions, items: list[str]) -> str:
    """Models that differ, and whose chances of items differ."""
    torch.manual_seed(0)
    models = [AcceptanceModel(options).eval() for _ in range(count)]
    for model in models:
        for name in ("item", "kind", "output", "bias", "shown_before"):
            torch.nn.init.normal_(getattr(model, name).weight, std=0.6)
        torch.nn.init.normal_(model.start)
    draw = seeds.stream(0, "reference")
    reference = Histories(torch.from_numpy(draw.integers(1, 31, (6, 5))), torch.full((6, 5), NATURAL))
    folder.mkdir()
    held_out = {}
    if count > 1:
        for model in models:
            model.for_any_item.copy_(torch.tensor([0.8, -0.2, 0.5, 0.5]))
        band = {"decisions": 200, "effective": 150.0, "said": 0.5, "offset": -0.1, "low": -0.2, "high": 0.05}
        halves = [{"highest": 0.5, **band}, {"highest": 1.0, **band, "high": 0.0}]
        held_out = {"any_item": True, "choices": 2, "all": halves, "chosen": [{"highest": 1.0, **band, "low": -0.4}]}
    write_export(Exported(models, items, reference, held_out), _writer(folder))
    return str(folder)


def regulation(folder: Path, finished_runs: Runs) -> Arguments:
    """One of a design; and one without its export and with a short queue."""
    (folder / "export").mkdir()
    design = make_design(SECTION, published_curve())
    exported = regulation_export.ExportedDesign(design, SECTION)
    regulation_export.write_export(exported, _writer(folder / "export"))
    shared = {"regulators": ["ruth"]}
    return {
        "regulation": {**shared, "export": str(folder / "export"), "database": str(folder / "wide.sqlite")},
        "regulation-narrow": {
            **{**shared, "database": str(folder / "narrow.sqlite"), "builder_names": "plain"},
            **{"max_waiting": 1, "deadline_seconds": 2, "concurrent_per_key": 2, "most_submissions": 4},
        },
    }


def _writer(folder: Path) -> Callable[[str, bytes], int]:
    return lambda name, content: (folder / name).write_bytes(content)


def refusal(folder: Path, finished_runs: Runs) -> Arguments:
    """The judge that ships, whose jobs end at a setting that is none; the same with jobs that work; and a narrow one."""
    judge, agreement = shipped_judge(0)
    (folder / "judge").mkdir(parents=True)
    write_judge(ExportedRefusals(judge, agreement.as_dict(), {}), _writer(folder / "judge"))
    export, spool = str(folder / "judge"), str(folder / "spool")
    toy = {"models": {"toy": "target"}, "sets": ["planted-safe", "planted-control"], "generation_target": "planted"}
    small = {
        **{"target.name": "planted", "compute.workers": 1, "generator.prompts_per_call": 4},
        **{"generator.scan_words": 40, "generator.max_tokens": 12},
    }
    shared = {"export": export, "spool": spool, "generate": True, "most_prompts": 8, **toy}
    return {
        "refusal": {**shared, "jobs_per_key": 1, "job_settings": {"run.max_failures": -1}},
        "refusal-working": {**shared, "job_settings": small},
        "refusal-narrow": {"export": export, "spool": spool, "max_waiting": 0},
    }


def supervision(folder: Path, finished_runs: Runs) -> Arguments:
    """Five trees on the words of made-up headlines; and a linear one that abstains, with a short queue."""
    texts, labels = headlines(200)
    examples = labelled(texts, labels)
    features = features_named("words:40", texts)
    seen = features.of(texts)
    draws = [seeds.stream(0, "trees", number).random(200) for number in range(5)]
    trees = [fit_expert(WeakSection(depth=2), seen, examples.labels, draw, 2, 0) for draw in draws]
    line = fit_expert(WeakSection(learner="linear"), seen, examples.labels, np.ones(200), 2, 0)
    made = {"voting": (trees, (1.0, 0.8, 0.6, 0.4, 0.2)), "narrow": ([line], (1.0,))}
    for name, (experts, alphas) in made.items():
        (folder / name / "experts").mkdir(parents=True)
        exported = ExportedEnsemble(examples.classes, "linear", alphas, ArrayVoters(tuple(experts), features))
        write_ensemble(exported, _writer(folder / name))
    model = save_tiny_model(folder / "tiny", seed=0)
    (folder / "adapters/experts/00000").mkdir(parents=True)
    base, classes = AdapterBase(WeakSection(learner="adapter", model=model, epochs=1)), examples.classes
    adapter = ClassExperts(base, texts, classes).fit(np.arange(200), examples.labels, np.ones(200), 0)
    write_ensemble(
        ExportedEnsemble(classes, "linear", (1.0,), AdapterVoters(base, (adapter,), classes)),
        _writer(folder / "adapters"),
    )
    return {
        "supervision-adapters": {"export": str(folder / "adapters"), "trusted": [f"{model}@2"]},
        "supervision": {"export": str(folder / "voting")},
        "supervision-narrow": {"export": str(folder / "narrow"), "abstain_below": 1.0, "max_waiting": 0},
    }
