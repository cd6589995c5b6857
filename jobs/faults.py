"""What a run and a service survive, tried: each fault of the list on each system's smallest run.

A run is begun, disturbed after a few steps, and its command repeated where it has ended; its report must be that of an
undisturbed run. Ends with 1 if anything finished was lost, a report differs or a command ended otherwise than promised.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cluster import local
from jobs.disturbed_run import RUN_SECONDS, STARTS, DisturbedRun, spec_of, until, untimed
from jobs.fault_kinds import AGAIN, FAULTS, Fault, NotHere, small_disk
from jobs.service_faults import KILLED, application, served
from jobs.small_runs import settings_of
from rayworks.core.errors import InfrastructureError, RayworksError
from rayworks.systems import REGISTRY

NAMES = (*(fault.name for fault in FAULTS), *KILLED)
NODES, CPUS = 3, 2
WORKERS = ("--compute.workers", str(CPUS + 1))
"""More than a node holds, so that a run is never on the head node alone."""
STEPS_BEFORE = 2
NOT_OURS = "the cluster was up before and is not this command's to harm"
COLUMNS = ("system", "fault", "exit codes", "recovered after, s", "steps done again", "finished lost", "result")


@dataclass
class Cell:
    """What one fault did to one system."""

    system: str
    fault: str
    codes: list[int] = field(default_factory=list)
    """With which each command ended."""
    seconds: float | None = None
    """From the fault until the first step beyond those that were done, or for a service until it answers again."""
    again: int = 0
    """Steps that were done before and are done again; for a service, requests that failed."""
    lost: int = 0
    """Of the steps done again, those whose checkpoint was there unharmed."""
    skipped: str = ""
    """Why it was not tried."""
    problem: str = ""
    """What is not as promised."""

    def row(self) -> list[str]:
        """As people read it, by :data:`COLUMNS`."""
        if self.skipped:
            return [self.system, self.fault, "", "", "", "", f"skipped: {self.skipped}"]
        service = self.fault in KILLED
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}"
        again = f"{self.again} requests failed" if service else str(self.again)
        codes = ", ".join("killed" if code < 0 else str(code) for code in self.codes)
        good = "answers again" if service else "same report"
        return [self.system, self.fault, codes, seconds, again, str(self.lost), self.problem or good]


@dataclass
class Column:
    """A system on a cluster, its settings, and its undisturbed run."""

    system: str
    settings: Sequence[str]
    folder: Path
    environment: dict[str, str]
    is_ours: bool
    """Whether the cluster is this command's alone."""
    timed: frozenset[str] = field(init=False)
    straight: DisturbedRun = field(init=False)

    def __post_init__(self) -> None:
        self.timed = spec_of(self.system).timed
        self.straight = self._run("straight", self.folder / "runs")

    def run_straight(self) -> str:
        """Run it undisturbed; what went wrong, empty if nothing."""
        code = self.straight.begin().wait(RUN_SECONDS)
        return "" if code == 0 else f"its undisturbed run ended with {code}: {_tail(self.straight.log)}"

    def cell(self, fault: Fault) -> Cell:
        """Try one fault; the cell says what came of it."""
        cell = Cell(self.system, fault.name)
        name = fault.name.replace(" ", "-").lower()
        run = self._run(name, self.folder / (f"{name}-disk" if fault.small_disk else "runs"))
        try:
            if fault.own_cluster and not self.is_ours:
                raise NotHere(NOT_OURS)
            with ExitStack() as stack:
                if fault.small_disk:
                    stack.enter_context(small_disk(run.storage))
                stack.callback(run.end)
                disturb(run, fault, cell)
                if not cell.problem:
                    cell.problem = self._differences(run)
        except NotHere as reason:
            cell.skipped = str(reason)
        return cell

    def service_cells(self, faults: Sequence[str]) -> Iterator[Cell]:
        """Deploy the undisturbed run's export and try faults of services on it."""
        cells = [Cell(self.system, fault) for fault in faults]
        why = "it has no application" if application(self.system) is None else ""
        if not why and not self.is_ours:
            why = NOT_OURS
        if why or not cells:
            for cell in cells:
                cell.skipped = why
            yield from cells
            return
        export = self.straight.directory / "export"
        try:
            with served(self.system, export, self.folder, self.environment) as service:
                for cell in cells:
                    cell.seconds, cell.again = service.disturbed(cell.fault)
                    if cell.seconds is None:
                        cell.problem = "does not answer again"
                    elif cell.again:
                        cell.problem = f"{cell.again} requests failed"
                    yield cell
        except InfrastructureError as error:
            yield Cell(self.system, "none", problem=str(error))

    def _run(self, name: str, storage: Path) -> DisturbedRun:
        return DisturbedRun(self.system, storage, name, self.settings, self.environment)

    def _differences(self, run: DisturbedRun) -> str:
        expected, found = (untimed(one.directory, self.timed) for one in (self.straight, run))
        parts = [part for part in expected if found.get(part) != expected[part]]
        return f"the report differs in {', '.join(parts)}" if parts else ""


def disturb(run: DisturbedRun, fault: Fault, cell: Cell) -> None:
    """Run it with the fault in its middle until it is done, and write down how that went.

    Raises:
        NotHere: it can not be made.
    """
    driver = run.begin()
    until(lambda: run.sealed() >= STEPS_BEFORE or driver.poll() is not None, RUN_SECONDS)
    if driver.poll() == 0:
        raise NotHere("the run was over before")
    if driver.poll() is not None:
        cell.codes, cell.problem = [driver.returncode], f"ended before anything happened to it: {_tail(run.log)}"
        return
    reached, before, at = run.sealed(), run.resumed_from(), time.monotonic()
    mend = fault.inject(run)
    kept = run.sealed(intact=True)
    target, deadline = max(reached, kept), at + RUN_SECONDS
    while time.monotonic() < deadline:
        # A start that makes no step leaves nothing behind but the checkpoint it was to go on from.
        resumed = run.resumed_from()
        if resumed is not None and resumed != before:
            before, cell.again, cell.lost = (
                resumed,
                max(reached - resumed[1], 0),
                max(min(kept, reached) - resumed[1], 0),
            )
        if cell.seconds is None and (run.is_done or run.sealed() > target):
            cell.seconds = time.monotonic() - at
        code = run.drivers[-1].poll()
        if code == 0 or (code is not None and not _may_repeat(run, code, fault)):
            break
        if code is not None:
            mend()
            run.begin()
        time.sleep(0.02)
    run.end()
    cell.codes = [one.returncode for one in run.drivers]
    cell.problem = _broken_promise(run, fault)


def _may_repeat(run: DisturbedRun, code: int, fault: Fault) -> bool:
    return (code == AGAIN or code in fault.ends) and len(run.drivers) < STARTS


def _broken_promise(run: DisturbedRun, fault: Fault) -> str:
    codes = [driver.returncode for driver in run.drivers]
    if codes[-1] != 0:
        return f"the last command ended with {codes[-1]}: {_tail(run.log)}"
    # Of two drivers the second stands first: it is the one that must be refused.
    expected = {AGAIN} if fault.name == "two drivers" else fault.ends
    if codes[0] not in expected:
        return f"the disturbed command ended with {codes[0]}, not {' or '.join(map(str, sorted(expected)))}"
    if fault.name == "two drivers" and len(run.attempts()) != 1:
        return "both drivers ran"
    return ""


def _tail(log: Path) -> str:
    return " ".join(log.read_text().split())[-300:]


@contextmanager
def on_cluster() -> Iterator[bool]:
    """A local cluster whose variables this process has; whether it was begun for the block, and ends with it.

    Raises:
        InfrastructureError: it does not come up.
    """
    ours = local.read_state() is None
    try:
        if ours and local.up(NODES, CPUS, None):
            raise InfrastructureError(f"no cluster came up; see {local.folder()}")
        # Ray reads its authentication mode when it is first imported.
        os.environ.update(local.environment())
        yield ours
    finally:
        if ours:
            local.down()


def try_all(systems: Sequence[str], faults: Sequence[str], settings: Sequence[str], folder: Path) -> Iterator[Cell]:
    """Every cell of the matrix, as it becomes known."""
    for system in systems:
        place = folder / system.replace(":", ".")
        place.mkdir(parents=True)
        try:
            with on_cluster() as ours:
                words = [*WORKERS, *settings_of(system), *settings]
                yield from column_cells(Column(system, words, place, dict(os.environ), ours), faults)
        except InfrastructureError as error:
            yield Cell(system, "none", problem=str(error))


def column_cells(column: Column, faults: Sequence[str]) -> Iterator[Cell]:
    """Those of one system; what harms the cluster comes last."""
    broken = column.run_straight()
    if broken:
        yield Cell(column.system, "none", problem=broken)
        return
    tried = [fault for fault in FAULTS if fault.name in faults]
    yield from (column.cell(fault) for fault in tried if not fault.own_cluster)
    yield from column.service_cells([name for name in KILLED if name in faults])
    yield from (column.cell(fault) for fault in tried if fault.own_cluster)


def markdown(cells: Sequence[Cell]) -> str:
    """The table of docs/reliability.md."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(cell.row() for cell in cells)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try them, print the table and store it."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.faults",
        description=__doc__,
        epilog=f"Faults: {'; '.join(NAMES)}. Settings of the runs: --section.field VALUE.",
        allow_abbrev=False,
    )
    parser.add_argument("--system", nargs="+", default=list(REGISTRY), metavar="NAME", help="default: all")
    parser.add_argument("--fault", nargs="+", default=list(NAMES), metavar="NAME", choices=NAMES, help="default: all")
    parser.add_argument("--output", type=Path, default=Path("faults.json"), metavar="FILE", help="results as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options, settings = parser.parse_known_args(arguments)
    cells: list[Cell] = []
    # What was begun here has to end with it: a cluster, drivers, mounts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(AGAIN))
    try:
        for system in options.system:
            spec_of(system)
        with tempfile.TemporaryDirectory(prefix="rayworks-faults-") as folder:
            for cell in try_all(options.system, options.fault, settings, Path(folder)):
                cells.append(cell)
                print("  ".join(filter(None, cell.row())), file=sys.stderr, flush=True)
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if cells:
            options.output.write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")
    if options.markdown:
        print(markdown(cells))
    else:
        _print_table(cells)
    return int(any(cell.problem or cell.lost for cell in cells))


def _print_table(cells: Sequence[Cell]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS)
    for cell in cells:
        table.add_row(*cell.row(), style="red" if cell.problem or cell.lost else "dim" if cell.skipped else None)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
