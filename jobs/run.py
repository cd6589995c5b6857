"""Run a system: ``python -m jobs.run SYSTEM ...``, which is ``rayworks run`` without an installed command."""

import sys
from collections.abc import Sequence

from rayworks import command

PROGRAM = "python -m jobs.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """See :func:`rayworks.command.run`."""
    return command.run(arguments, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
