"""What Ray raises in a process that outlives its node's raylet, as actors of a dying node do, is infrastructure."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = """
import json
import sys
from pathlib import Path
import numpy as np
import psutil
import ray
from rayworks.runtime.failures import classify

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
stored = ray.put(np.zeros(10**6))
[raylet] = [process for process in psutil.Process().children(recursive=True) if process.name() == "raylet"]
raylet.kill()
raylet.wait()
found = []
for ask in (ray.wait, lambda refs: ray.get(refs[0])):
    try:
        ask([stored])
    except Exception as error:
        found.append((type(error).__name__, *(vars(classify(error))[name] for name in ("kind", "message"))))
try:
    open("/nowhere/at/all")
except OSError as error:
    found.append(("ours", classify(error).kind, ""))
Path(sys.argv[1]).write_text(json.dumps(found))
"""


def test_what_ray_raises_without_its_raylet_is_infrastructure(tmp_path: Path) -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_AUTH"))}
    answer = tmp_path / "found.json"  # not standard output: Ray's own threads write into the middle of its lines
    command = [sys.executable, "-c", PROGRAM, str(answer)]
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=240, check=False)
    assert answer.exists(), done.stdout + done.stderr
    message = "Ray on this node does not answer (Broken pipe)"
    assert json.loads(answer.read_text()) == [
        ["OSError", "infrastructure", message],
        ["OSError", "infrastructure", message],
        ["ours", "internal", ""],
    ]
