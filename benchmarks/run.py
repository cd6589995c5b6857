"""Run every benchmark, each in its own process, and write the table into the README."""

import subprocess
import sys
from pathlib import Path

from benchmarks.results import table

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = (
    "acceptance_serving",
    "acceptance_training",
    "auction",
    "battle",
    "federation_engine",
    "guided_decoding",
    "item_response",
    "next_item",
    "noise_images",
    "off_policy",
    "particle_world",
    "rating_period",
    "team_training",
)
BEGIN, END = "<!-- benchmarks: made by make bench -->", "<!-- end of benchmarks -->"


def main() -> int:
    """Run all; the first exit code that is not 0."""
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode
        if code:
            return code
    write_table(ROOT / "README.md")
    return 0


def write_table(readme: Path) -> None:
    """Put the table of stored results between the README's marks."""
    text = readme.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
