"""The gate of false refusals: ``python -m jobs.refusal_regression ...``, which is ``rayworks refusal-gate``."""

import sys
from collections.abc import Sequence

from rayworks.systems.refusal.regression import command

PROGRAM = "python -m jobs.refusal_regression"


def main(arguments: Sequence[str] | None = None) -> int:
    """See :func:`rayworks.systems.refusal.regression.command.main`."""
    return command.main(arguments, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
