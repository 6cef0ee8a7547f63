"""What scripts read of a verb."""

import json
import subprocess
import sys

WARNED = """
from mlray.screen import Screen

screen = Screen(as_json=True)
print("(raylet) WARNING: many workers")
screen.show("training set", [{"rows": 3}], {"seconds": 1.5})
print("(raylet) WARNING: still many")
"""


def test_a_script_reads_one_json_object_whatever_ray_prints_beside_it() -> None:
    done = subprocess.run([sys.executable, "-c", WARNED], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"result": [{"rows": 3}], "seconds": 1.5}
    assert done.stderr.count("WARNING") == 2
