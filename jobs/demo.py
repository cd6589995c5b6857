"""The whole story on this machine: cluster, job, report, HTTP. ``make demo``; ``--keep`` leaves it running.

``--figure`` only copies the figure of the last demo to where the README shows it from.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster import local
from rayworks.core.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
STORAGE = "~/rayworks/runs"
PROMPT = "Title of a customer review of Dresses:"
WEIGHTS = (0.0, 0.5, 1.0)
SEEDS = (1, 2, 3)
FIGURE = ROOT / "docs" / "figures" / "frontier.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every step, clean up what was started, and end with the first exit code that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster and the server running")
    parser.add_argument(
        "--figure", action="store_true", help=f"copy its figure to {FIGURE.relative_to(ROOT)}, and stop"
    )
    options = parser.parse_args(arguments)
    if options.figure:
        return copy_figure()
    started = time.monotonic()
    had_cluster = local.read_state() is not None
    kept = False
    try:
        code = demo(started)
        kept = options.keep
    except KeyboardInterrupt:
        code = 130
    finally:
        if not kept and not had_cluster:
            local.down()
    print_next_steps(local.read_state())
    return code


def demo(started: float) -> int:
    """Cluster, job, server, three completions per weight."""
    say(started, "a Ray cluster of two nodes on this machine")
    code = command("cluster.local", "up")
    if code:
        return code
    say(started, "ray job submit: train two reward models, guide the frozen base with them, measure")
    code = command("jobs.submit", "alignment", "--smoke")
    if code:
        return code
    show_headline(run_directory().read_json("report.json")["headline"])
    say(started, "Ray Serve: the exported reward models behind the OpenAI protocol")
    made = subprocess.run(
        [sys.executable, "-m", "serve.common.keys", "new", "demo"], cwd=ROOT, capture_output=True, text=True
    )
    key = made.stdout.strip()
    code = made.returncode or command("serve.deploy", "serve/config.smoke.yaml", "--only", "alignment")
    if code:
        return code
    say(started, f"the same prompt over HTTP at three weights: {PROMPT!r}")
    show_completions(key)
    say(started, "done")
    return 0


def run_directory() -> RunDirectory:
    """Where the demo's job leaves its report."""
    return RunDirectory(STORAGE, "alignment", "smoke")


def copy_figure() -> int:
    """Put the frontier of the finished run into the documentation; the exit code."""
    made = Path(run_directory().path(f"figures/{FIGURE.name}"))
    if not made.exists():
        print(f"data error: {made} does not exist; make it by: make demo", file=sys.stderr)
        return 4
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_bytes(made.read_bytes())
    print(FIGURE.relative_to(ROOT))
    return 0


def command(module: str, *arguments: str) -> int:
    """Run what a user would type, after saying it; its exit code."""
    print(f"    $ python -m {module} {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode


def show_headline(headline: dict[str, Any]) -> None:
    """The report's numbers, one per line."""
    for name, value in headline.items():
        print(f"    {name:<26} {value:8.3f}" if isinstance(value, float) else f"    {name:<26} {value}")


def show_completions(key: str) -> None:
    """Completions of equal seeds at growing weights, side by side with their scores."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    judge = SentimentIntensityAnalyzer()
    for weight in WEIGHTS:
        for seed in SEEDS:
            choice = complete(key, weight, seed)["choices"][0]
            text = " ".join(choice["text"].split())
            score = judge.polarity_scores(text)["compound"]
            kl = choice["guidance"]["kl_to_base"]
            print(f"    sentiment {weight:3.1f}  seed {seed}  vader {score:+.2f}  KL {kl:5.1f}  {text}")


def complete(key: str, weight: float, seed: int) -> dict[str, Any]:
    """One ``POST /v1/completions``."""
    body = {
        "model": "smollm2-135m-instruct",
        "prompt": PROMPT,
        "max_tokens": 12,
        "seed": seed,
        "guidance": {"sentiment": weight},
    }
    request = urllib.request.Request(
        "http://127.0.0.1:8000/alignment/v1/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def print_next_steps(cluster: dict[str, Any] | None) -> None:
    """Where to look and what to type next."""
    report = run_directory().path("report.html")
    print(f"\nreport       {report}")
    print(f"curves       .venv/bin/tensorboard --logdir {STORAGE}")
    if cluster is None:
        print("keep it up   make demo KEEP=1   (goes on where this one ended)")
        return
    print(f"dashboard    {cluster['dashboard']}   (token: {local.folder() / 'token'})")
    print("key          .venv/bin/python -m serve.common.keys new me")
    print(
        'call it      curl http://127.0.0.1:8000/alignment/v1/completions -H "Authorization: Bearer $KEY" '
        "-H 'Content-Type: application/json' -d '"
        '{"model": "smollm2-135m-instruct", "prompt": "'
        + PROMPT
        + '", "max_tokens": 12, "guidance": {"sentiment": 1}}\''
    )
    print("stop it      make down")


def say(started: float, what: str) -> None:
    """A step's heading with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    print(f"\n[{minutes}:{seconds:02d}] {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
