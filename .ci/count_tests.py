"""Print the ten slowest tests of some JUnit files and, as the last line, how many passed and failed in all of them."""

import sys
from pathlib import Path
from xml.etree import ElementTree

SLOWEST = 10


def main(files: list[str]) -> int:
    """A file that is missing, since its run broke off, counts as an error; 1 if anything failed."""
    tests: list[tuple[float, str]] = []
    counts = dict.fromkeys(("failed", "passed", "skipped", "errors"), 0)
    seconds = 0.0
    for file in files:
        if not Path(file).exists():
            counts["errors"] += 1
            continue
        for suite in ElementTree.parse(file).getroot().iter("testsuite"):
            total, failed, errors, skipped = (
                int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
            )
            for name, count in zip(counts, (failed, total - failed - errors - skipped, skipped, errors), strict=True):
                counts[name] += count
            seconds += float(suite.get("time", 0))
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            tests.append((float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}"))
    print("\n== slowest tests")
    for time, name in sorted(tests, reverse=True)[:SLOWEST]:
        print(f"{time:6.1f} s  {name}")
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "passed")
    print(f"\n{told} in {seconds:.1f}s")
    return int(counts["failed"] + counts["errors"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
