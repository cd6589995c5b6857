"""Vary config fields: ``python -m jobs.sweep SYSTEM ...``, which is ``rayworks sweep`` without an installed command."""

import sys
from collections.abc import Sequence

from rayworks import command


def main(arguments: Sequence[str] | None = None) -> int:
    """See :func:`rayworks.command.sweep`."""
    return command.sweep(arguments, "python -m jobs.sweep")


if __name__ == "__main__":
    sys.exit(main())
