"""Run every benchmark, each in its own process, and write the tables of docs/benchmarks.md and the README.

``python -m benchmarks.run --table`` only writes the tables.
"""

import subprocess
import sys

from benchmarks.comparisons import SYSTEMS
from benchmarks.table import ROOT, write_tables


def main() -> int:
    """Run all; the first exit code that is not 0."""
    if "--table" not in sys.argv:
        for name in sorted(name for names in SYSTEMS.values() for name in names):
            print(f"== {name}", flush=True)
            code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode
            if code:
                return code
    write_tables()
    return 0


if __name__ == "__main__":
    sys.exit(main())
