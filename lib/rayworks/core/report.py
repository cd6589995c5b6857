"""``report.json`` and a self-contained ``report.html``: headline numbers, tables and figures of a finished run."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayworks.core.errors import DataError
from rayworks.core.run_directory import FIGURES, REPORT_HTML, REPORT_JSON, RunDirectory

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """A titled table: rows are cells in the order of ``columns``."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass
class Report:
    """Results of a run.

    ``headline`` holds the numbers a reader compares between runs; a value that could not be measured is ``None``.
    """

    system: str
    run: str
    title: str
    headline: Mapping[str, Cell]
    tables: Sequence[Table] = ()
    figures: Mapping[str, tuple[bytes, str]] = field(default_factory=dict)
    """File name to PNG bytes and caption."""
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Other pages of the run, by their path beside the report: what they show."""

    def write(self, directory: RunDirectory) -> str:
        """Write figures, JSON and HTML and return the page's path.

        Raises:
            DataError: a headline number is not finite.
        """
        for name, value in self.headline.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"headline {name}: is {value}, not a finite number; see the run's metrics")
        for name, (png, _) in self.figures.items():
            directory.write(f"{FIGURES}/{name}", png)
        directory.write_json(REPORT_JSON, self.as_dict())
        return directory.write(REPORT_HTML, self.as_html())

    def as_dict(self) -> dict[str, Any]:
        """The report without its pictures."""
        return {
            "system": self.system,
            "run": self.run,
            "title": self.title,
            "headline": dict(self.headline),
            "tables": [
                {"title": t.title, "columns": list(t.columns), "rows": [list(row) for row in t.rows], "note": t.note}
                for t in self.tables
            ],
            "figures": {name: caption for name, (_, caption) in self.figures.items()},
            "notes": list(self.notes),
            "details": dict(self.details),
        }

    def as_html(self) -> str:
        """One page with no reference to any other file."""
        cards = "".join(
            f"<div class=card><b>{_cell(value)}</b><span>{html.escape(name.replace('_', ' '))}</span></div>"
            for name, value in self.headline.items()
        )
        figures = "".join(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for png, caption in self.figures.values()
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        links = "".join(
            f'<p><a href="{html.escape(path)}">{html.escape(shown)}</a></p>' for path, shown in self.links.items()
        )
        details = html.escape(json.dumps(dict(self.details), indent=2))
        return _PAGE.format(
            title=html.escape(self.title),
            subtitle=html.escape(f"{self.system} / {self.run}"),
            cards=cards,
            figures=figures,
            links=links,
            tables="".join(_table(table) for table in self.tables),
            notes=f"<ul>{notes}</ul>" if notes else "",
            details=details,
        )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{html.escape(table.title)}</h2>{note}"
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"
    return html.escape(str(value))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body{{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:1060px;margin:2rem auto;padding:0 1rem}}
h1{{margin:0}} .sub{{color:#6b7280;margin:0 0 1.2rem}} h2{{margin:2rem 0 .5rem;font-size:1.1rem}}
.cards{{display:flex;flex-wrap:wrap;gap:.6rem}}
.card{{border:1px solid #e5e7eb;border-radius:8px;padding:.6rem .9rem;min-width:8.5rem}}
.card b{{display:block;font-size:1.25rem}} .card span{{color:#6b7280;font-size:.85rem}}
figure{{margin:1.5rem 0}} img{{max-width:100%}} figcaption,.note{{color:#6b7280;font-size:.9rem}}
.wide{{overflow-x:auto}} table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}}
th,td{{text-align:left;padding:.3rem .7rem;border-bottom:1px solid #e5e7eb;vertical-align:top}}
th,td:first-child{{white-space:nowrap}} pre{{background:#f9fafb;padding:1rem;overflow-x:auto;font-size:.8rem}}
</style></head><body>
<h1>{title}</h1><p class="sub">{subtitle}</p>
<div class="cards">{cards}</div>
{links}{figures}{tables}{notes}
<details><summary>Details</summary><pre>{details}</pre></details>
</body></html>
"""
