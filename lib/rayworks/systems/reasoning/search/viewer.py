"""Trees as a page that a person can read, with no reference to any other file."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from rayworks.systems.reasoning.search.records import Record

SHOWN = 24
"""Trees on the page of a run: enough to see what a search does."""
OPEN_DEPTH = 2
"""Steps that are unfolded at first, beside the path of the answer."""


def trees_page(trees: Sequence[Record], title: str) -> str:
    """A page of the first trees, those that found a right answer only sometimes before others: there is most to see.

    Of every node its text, visits, mean value and its own scores; the steps of the answer chosen by vote are marked.
    """
    ranked = sorted(trees, key=_interest)
    never = [tree for tree in trees if not any(answer["correct"] for answer in tree["answers"])][: SHOWN // 3]
    chosen = [*ranked[: SHOWN - len(never)], *(tree for tree in never if tree not in ranked[: SHOWN - len(never)])]
    index = "".join(
        f'<li><a href="#t{number}">{html.escape(_short(tree["question"]))}</a> {_verdict(tree)}</li>'
        for number, tree in enumerate(chosen)
    )
    sections = "".join(_section(number, tree) for number, tree in enumerate(chosen))
    shown = f"{len(chosen)} of {len(trees)} trees: those first that were right about half the time, then some that never were"
    return _PAGE.format(title=html.escape(title), shown=shown, index=index, sections=sections)


def _section(number: int, tree: Record) -> str:
    nodes, children = tree["nodes"], dict[int, list[Mapping[str, Any]]]()
    for node in nodes:
        if node["parent"] is not None:
            children.setdefault(node["parent"], []).append(node)
    path = _path(tree, children)
    answers = len(tree["answers"])
    right = sum(answer["correct"] for answer in tree["answers"])
    facts = (
        f"{tree['simulations']} simulations, {tree['drawn_tokens']} tokens drawn, {right} of {answers} answers right, "
        f"ended: {tree['stopped']}"
    )
    expected = f"<p>Expected: <code>{html.escape(str(tree['expected']))}</code></p>" if tree.get("expected") else ""
    rules = "".join(
        f"<tr><td>{rule}</td><td><code>{html.escape(str(one['said'])) if one else '–'}</code></td>"
        f"<td>{'right' if one and one['correct'] else 'wrong'}</td></tr>"
        for rule, one in tree["chosen"].items()
    )
    failed = f"<p class=bad>{html.escape(tree['failed'])}</p>" if tree.get("failed") else ""
    return (
        f'<section id="t{number}"><h2>{_verdict(tree)} <code>{html.escape(tree["question"].strip())}</code></h2>'
        f"<p>{facts}</p>{expected}{failed}<table>{rules}</table>"
        f"<ul class=tree>{_node(nodes[0], children, path)}</ul></section>"
    )


def _node(node: Mapping[str, Any], children: Mapping[int, Sequence[Mapping[str, Any]]], path: set[int]) -> str:
    below = children.get(node["id"], ())
    text = node["text"].strip() or ("question" if node["parent"] is None else "(nothing)")
    marks = ("end " if node["terminal"] else "") + ("cut " if node["cut"] else "")
    parts = "".join(f", {name} {value:.3g}" for name, value in node["parts"].items())
    repeated = f", repeated {node['merges']} times" if node["merges"] else ""
    label = (
        f"<span class=bar><i style='width:{max(0.0, min(1.0, node['value'])):.0%}'></i></span>"
        f"<code>{html.escape(text)}</code> <small>{node['visits']} visits, value {node['value']:.2f}"
        f"{parts}{repeated} {marks}</small>"
    )
    kind = " class=path" if node["id"] in path else ""
    if not below:
        return f"<li{kind}>{label}</li>"
    unfolded = " open" if node["id"] in path or node["depth"] < OPEN_DEPTH else ""
    inner = "".join(_node(child, children, path) for child in below)
    return f"<li{kind}><details{unfolded}><summary>{label}</summary><ul>{inner}</ul></details></li>"


def _path(tree: Record, children: Mapping[int, Sequence[Mapping[str, Any]]]) -> set[int]:
    """Nodes that the text of the chosen answer goes through."""
    chosen = tree["chosen"].get("vote") or {}
    text, at, found = chosen.get("text", ""), tree["nodes"][0], {tree["nodes"][0]["id"]}
    so_far = ""
    while True:
        fitting = [one for one in children.get(at["id"], ()) if text.startswith(so_far + one["text"])]
        step = max(fitting, key=lambda one: len(one["text"]), default=None)
        if step is None:
            return found
        at, so_far = step, so_far + step["text"]
        found.add(step["id"])


def _interest(tree: Record) -> tuple[bool, float]:
    rights = [answer["correct"] for answer in tree["answers"]]
    share = sum(rights) / len(rights) if rights else 0.0
    return not 0 < share < 1, abs(share - 0.5)


def _verdict(tree: Record) -> str:
    chosen = tree["chosen"].get("vote")
    return "<b class=good>right</b>" if chosen and chosen["correct"] else "<b class=bad>wrong</b>"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else f"{text[:69]}…"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body{{font:14px/1.5 system-ui,sans-serif;color:#1f2937;max-width:1060px;margin:2rem auto;padding:0 1rem}}
h1{{margin:0}} h2{{font-size:1.05rem;margin:2rem 0 .3rem}} p{{margin:.2rem 0}} small{{color:#6b7280}}
ul{{list-style:none;padding-left:1.1rem;margin:.1rem 0}} .tree{{padding-left:0}}
li{{border-left:2px solid #e5e7eb;padding-left:.5rem}}
li.path{{border-left-color:#1b6ca8}} li.path>code,li.path>details>summary>code{{font-weight:bold}}
summary{{cursor:pointer}} code{{white-space:pre-wrap;background:#f3f4f6;padding:0 .25rem;border-radius:3px}}
.bar{{display:inline-block;width:3rem;height:.6rem;background:#e5e7eb;margin-right:.4rem}}
.bar i{{display:block;height:100%;background:#2e933c}} td{{padding:0 .8rem 0 0}}
.good{{color:#2e933c}} .bad{{color:#d1495b}}
</style></head><body><h1>{title}</h1><p>{shown}; bars and values are mean values of visits, the blue line is the answer chosen
by vote. Click a step to fold it.</p><ol>{index}</ol>{sections}</body></html>
"""
