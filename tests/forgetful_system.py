"""A system with a defect that only a fault shows: taken up again, it has forgotten what it had counted."""

from dataclasses import replace
from pathlib import Path

from tests import counting_system
from tests.counting_system import Counting

SPEC = replace(counting_system.SPEC, name="forgetful", system="tests.forgetful_system:Forgetful")


class Forgetful(Counting):
    spec = SPEC

    def load_state(self, folder: Path) -> None:
        super().load_state(folder)
        self.total = 0.0
