"""What a failure is classed as, and what its one line names."""

import errno

import pytest

from rayworks.core.errors import InfrastructureError
from rayworks.runtime.failures import classify


@pytest.mark.parametrize(
    ("names", "named"),
    [(("/runs/state.pt",), "/runs/state.pt"), (("/tmp/scratch/state.pt", None, "/runs/state.pt"), "/runs/state.pt")],
)
def test_a_full_disk_is_named_by_what_was_being_written(names: tuple[str | None, ...], named: str) -> None:
    failure = classify(OSError(errno.ENOSPC, "No space left on device", *names))
    assert failure.kind == InfrastructureError.kind
    assert failure.message == f"No space left on device: {named}; free some space and repeat"
