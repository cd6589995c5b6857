"""What the stored results are set against: which row is a ratio of which two numbers, and which lines the README shows.

A number is the name of a row, or a dotted path into the raw values of its result, where ``*`` collects over a list.
"""

from dataclasses import dataclass

from rayworks.systems import REGISTRY


@dataclass(frozen=True)
class Comparison:
    """One line of the table."""

    what: str
    against: str = ""
    """The peer."""
    ours: str = ""
    peer: str = ""
    ratio: str = ""
    """Name of the row that holds it; the goal is part of the name."""
    scale: float = 1.0
    """Of raw values, to the unit of the row beside them."""


SYSTEMS: dict[str, tuple[str, ...]] = {
    "language models": ("shared_work", "vllm_decoding"),
    "alignment": ("guided_decoding",),
    "augmentation": ("augmentation_step",),
    "difficulty": ("item_response", "rating_period"),
    "federation": ("federation_engine", "noise_images"),
    "marl": ("particle_world", "battle", "team_training"),
    "reasoning": ("tree_search",),
    "recommendation": ("acceptance_training", "acceptance_serving", "next_item", "off_policy"),
    "refusal": ("harmless_refusals",),
    "regulation": ("auction",),
    "supervision": ("ensemble_decoding",),
    "serving": ("serving_load",),
}
"""The results of each system, and of what all share."""

UNLOADED = ("augmentation", "reasoning", "refusal", "supervision")
"""Applications that came after the stored result of the load."""

_TOKENS = "tokens/s, ours, batch 8"
_FIT = "500 x 50 2PL: CPU s"
_RMSE = "rmse of difficulty"
_ONE_PASS = "decisions learned from per CPU s, one pass over sequences, 2,000 users"
_SAMPLING = "sampling, ours, env steps/s"
_AGENT = "training, ours, graph per agent, env steps/s"
_TEAM = "training, ours, graph per team, env steps/s"
_EIGHT = "RLlib, eight environments"

COMPARISONS: dict[str, tuple[Comparison, ...]] = {
    "guided_decoding": (
        Comparison(
            "tokens/s, ours in batches of 8",
            "transformers, one by one",
            _TOKENS,
            "peer_batch_1",
            "against peer at batch 1 (goal 4)",
        ),
        Comparison(
            "tokens/s in batches of 8 of ragged lengths",
            "transformers",
            _TOKENS,
            "peer_batch_8",
            "against peer at batch 8, ragged lengths (goal 1.3)",
        ),
        Comparison(
            "time of a guided step", "base and ARM alone", ratio="guided step over base + ARM alone (goal <= 1.15)"
        ),
    ),
    "tree_search": (
        Comparison(
            "CPU ms of a simulation, 64 trees at once",
            "one question at a time by generate",
            "CPU ms a simulation, 64 trees at once",
            "generate",
            "64 trees, against one question at a time by generate (goal 12)",
        ),
        Comparison(
            "CPU ms of a simulation, 64 trees at once",
            "one question at a time on our engine",
            "CPU ms a simulation, 64 trees at once",
            "alone",
            "64 trees, against one question at a time on our engine",
        ),
        Comparison(
            "CPU ms of a simulation, 64 trees at once",
            "waiting for the slowest",
            "CPU ms a simulation, 64 trees at once",
            "barrier",
            "64 trees, against waiting for the slowest",
        ),
    ),
    "ensemble_decoding": tuple(
        line
        for batch, most, least in ((1, "2", "4"), (16, "4.2", "1.9"))
        for line in (
            Comparison(
                f"CPU ms a step of 8 experts, batch {batch}",
                "one expert",
                f"CPU ms a step of 8 experts, batch {batch}",
                f"alone_{batch}",
                f"8 experts over one, batch {batch} (goal <= {most})",
                1000.0,
            ),
            Comparison(
                f"CPU ms a step of 8 experts, batch {batch}",
                "a loop over them",
                f"CPU ms a step of 8 experts, batch {batch}",
                f"loop_{batch}",
                f"8 experts, batch {batch}, against a loop over them (goal {least})",
                1000.0,
            ),
            Comparison(
                f"CPU ms a step of 8 experts, batch {batch}",
                "8 merged models in turn",
                f"CPU ms a step of 8 experts, batch {batch}",
                f"merged_{batch}",
                f"8 experts, batch {batch}, against 8 merged models in turn",
                1000.0,
            ),
        )
    ),
    "harmless_refusals": tuple(
        Comparison(
            f"{shown}: refused prompts found per CPU s{what}",
            "paraphrase and filter",
            f"{name}_finds_per_second{'_with_scan' if what else ''}",
            f"{name}_rival_finds_per_second",
            f"{shown}: finds per CPU s{what}, against paraphrase and filter (goal 2)",
        )
        for name, shown in (("smollm2", "SmolLM2"), ("toy", "toy"))
        for what in ("", ", scan counted")
    ),
    "shared_work": (
        Comparison(
            "64 requests of one 400-token prefix, 16 new tokens each: s",
            "each reading the prefix",
            "prefix",
            "prefix_apart",
            "64 requests of one 400-token prefix, against each reading it (goal 3)",
        ),
        Comparison(
            "a tree of 200 nodes, depth 6: s",
            "reading every path",
            "tree",
            "tree_apart",
            "tree of 200 nodes, depth 6, against reading every path (goal 2)",
        ),
        Comparison(
            "a step of 16 rows with 8 adapters: s",
            "8 merged models in turn",
            "rows",
            "merged",
            "8 adapters, 16 rows, against 8 merged models in turn (goal 2)",
        ),
        Comparison(
            "a step of 16 rows with 8 adapters: s",
            "the base alone",
            "rows",
            "base",
            "8 adapters, 16 rows, over the base alone (goal <= 1.35)",
        ),
        Comparison(
            "gradients of 16 prompts at once: s",
            "one-hots, a prompt at a time",
            "gradients",
            "one_hots",
            "gradients of 16 prompts, against one-hots a prompt at a time (goal 4)",
        ),
        Comparison(
            "gradients of 16 prompts at once: s",
            "ours, a prompt at a time",
            "gradients",
            "gradients_apart",
            "gradients of 16 prompts, against ours one at a time",
        ),
    ),
    "vllm_decoding": (
        *(
            Comparison(
                f"tokens/s with {requests} requests on vLLM",
                "our transformers engine",
                f"tokens/s, vLLM, {requests} requests",
                f"transformers_{requests}",
                f"vLLM over transformers, {requests} requests",
            )
            for requests in (8, 16)
        ),
        Comparison(
            "time of a guided step inside vLLM",
            "base and ARM alone",
            ratio="guided step in vLLM over base + ARM alone (goal <= 1.2)",
        ),
    ),
    "item_response": (
        Comparison(
            "CPU s to fit 500 x 50 by a 2PL",
            "girth 0.8.0",
            _FIT,
            "seconds.girth",
            "times as fast as girth 0.8.0 twopl_mml (goal 20)",
        ),
        *(
            Comparison(
                "CPU s to fit 500 x 50 by a 2PL",
                f"py-irt 0.7.1, {priors}",
                _FIT,
                f"seconds.{priors}",
                f"times as fast as py-irt 0.7.1 2PL {priors} (goal 200)",
            )
            for priors in ("vague", "hierarchical")
        ),
        *(
            Comparison(_RMSE, peer, f"{_RMSE}, ours", f"{_RMSE}, {peer}")
            for peer in (
                "girth",
                "py-irt vague, as given",
                "py-irt vague, standardised",
                "py-irt hierarchical, standardised",
            )
        ),
    ),
    "rating_period": (
        Comparison("games rated per CPU s", "glicko2 2.1.0", ratio="times as fast per game as glicko2==2.1.0"),
        *(
            Comparison(
                f"volatility after {games}; the paper's is ours",
                "glicko2 2.1.0",
                f"volatility after {games}: ours, as in the paper",
                f"volatility after {games}: glicko2==2.1.0",
            )
            for games in ("2400/60 loses 8 games to 2300/50", "1500/50 wins 29 games against 2500/50")
        ),
    ),
    "federation_engine": (
        *(
            Comparison(
                f"s per round of {clients} trivial clients",
                "Flower's simulation",
                f"{clients} trivial clients, our engine: s per round",
                f"{clients} trivial clients, Flower's simulation: s per round",
                f"{clients} trivial clients: times faster{goal}",
            )
            for clients, goal in ((10, ""), (100, " (goal at least 10)"), (1000, ""))
        ),
        Comparison(
            "s per round of 100 clients with a million parameters",
            "bare trainings",
            "training.ours",
            "training.bare",
            "100 clients, a million parameters: our round in bare trainings (goal at most 1.3)",
        ),
    ),
    "noise_images": tuple(
        Comparison(
            f"CPU ms per image, {kind}, {pixels} pixels",
            "dense layers",
            f"{kind}, {pixels} pixels: rank-one CPU ms per image",
            f"{kind}-{pixels}.dense",
            f"{kind}, {pixels} pixels: dense over rank-one time (goal 6)",
            scale=1000,
        )
        for kind, pixels in (("oriented", 32), ("random", 32), ("sparse", 32), ("oriented", 128))
    ),
    "particle_world": tuple(
        Comparison(
            f"env steps/s, {copies:,} side by side",
            peer,
            f"ours, {copies} copies, env steps/s",
            "mpe2, env steps/s" if peer == "mpe2" else f"vmas.{copies}",
            f"ours / {peer}, {copies} copies{goal}",
        )
        for peer, goals in (("mpe2", ("", "", " (goal 100)", " (goal 100)")), ("vmas", (" (goal 1)",) * 4))
        for copies, goal in zip((1, 32, 256, 2048), goals, strict=True)
    ),
    "team_training": (
        *(
            Comparison(f"env steps/s {what}", peer, ours, f"found.{path}", ratio)
            for what, peer, ours, path, ratio in (
                ("sampled", "RLlib", _SAMPLING, "one.*.0", "sampling, ours / RLlib's default runner (goal 20)"),
                ("sampled", _EIGHT, _SAMPLING, "eight.*.0", "sampling, ours / RLlib's with eight environments"),
                (
                    "trained, graph per agent",
                    "RLlib",
                    _AGENT,
                    "one.*.1",
                    "training, graph per agent / RLlib (goal 1.3)",
                ),
                (
                    "trained, graph per agent",
                    _EIGHT,
                    _AGENT,
                    "eight.*.1",
                    "training, graph per agent / RLlib with eight environments",
                ),
                ("trained, graph per team", "RLlib", _TEAM, "one.*.1", "training, graph per team / RLlib (goal 2.5)"),
                (
                    "trained, graph per team",
                    _EIGHT,
                    _TEAM,
                    "eight.*.1",
                    "training, graph per team / RLlib with eight environments",
                ),
            )
        ),
        Comparison(
            "s of a layer",
            "torch-geometric",
            "layers.dense",
            "layers.sparse",
            "layer, torch-geometric's seconds / dense (goal 1)",
        ),
    ),
    "acceptance_training": (
        Comparison(
            "decisions learned from per CPU s, as many labels to an update",
            "prefix copies",
            _ONE_PASS,
            "as prefix copies, equally many labels to an update",
            "times as fast, equally many labels to an update (goal 20)",
        ),
        Comparison(
            "decisions learned from per CPU s",
            "prefix copies, batches of 256",
            _ONE_PASS,
            "as prefix copies, batches of 256",
            "times as fast as with batches of 256 (goal 20)",
        ),
        Comparison(
            "test AUC after 960,000 labels",
            "prefix copies",
            "test AUC after 960,000 labels, one pass",
            "test AUC after 960,000 labels, prefix copies",
        ),
    ),
    "acceptance_serving": (
        Comparison(
            "p95 ms of a request for 20 chances of acceptance, at 50 a second",
            ours="accept, past 50, slate 20, 50 requests/s: p95 ms (goal < 30)",
        ),
    ),
    "next_item": (
        Comparison(
            "samples of MovieLens-100k per CPU s",
            "RecBole 1.2.1",
            "samples per CPU s, ours",
            "samples per CPU s, RecBole 1.2.1",
            "times as many samples per CPU s (goal 2)",
        ),
        Comparison(
            "NDCG@10; RecBole's interval is 0.0461 to 0.0686",
            "RecBole, best of 10 epochs",
            "NDCG@10, ours (RecBole's interval is 0.0461 to 0.0686)",
            "NDCG@10, RecBole, best of 10 epochs, the 9th",
        ),
        Comparison(
            "HR@10; RecBole's interval is 0.0976 to 0.1400",
            "RecBole, best of 10 epochs",
            "HR@10, ours",
            "HR@10, RecBole (interval 0.0976 to 0.1400)",
        ),
        Comparison(
            "CPU s of training, ours to its end",
            "RecBole, 10 epochs, shorter last layer, compiled",
            "CPU s to the end of the training, ours",
            "CPU s of updates, RecBole, 10 epochs with a shorter last layer and compiled",
        ),
    ),
    "off_policy": (
        Comparison(
            "s on 100,000 impressions, the peer without intervals",
            "obp 0.5.10",
            "seconds.part",
            "seconds.peer",
            "times as fast as obp 0.5.10 on 100,000, its values without intervals",
        ),
        Comparison(
            "s on 100,000 impressions, 100 resamples",
            "obp 0.5.10",
            "seconds.part_bootstrap",
            "seconds.peer_bootstrap",
            "times as fast as obp on 100,000, 100 resamples",
        ),
    ),
    "auction": (
        Comparison(
            "CPU ms for the bids of a million types",
            "direct quadrature",
            ours="bids uniform",
            ratio="times as fast per bid as direct quadrature (goal 100)",
            scale=1000,
        ),
        Comparison(
            "time of one participation",
            "double quadrature",
            ratio="times as fast as double quadrature for one participation",
        ),
    ),
    "serving_load": tuple(
        Comparison(
            f"{system} at 25%: p50 ms",
            "an empty route",
            f"{system} at 25%: p50 ms",
            "bare at 25%: p50 ms",
            f"{system} at 25%: p50 over that of an empty route",
        )
        for system in REGISTRY
        if system not in UNLOADED
    ),
}
"""Rows that no comparison names are lines of their own."""
