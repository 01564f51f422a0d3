"""`import easyroutine` costs milliseconds and brings nothing along."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
start = time.process_time()
import easyroutine.interpretability, easyroutine.interpretability.tools
seconds = time.process_time() - start
heavy = [name for name in ("torch", "numpy", "transformers", "pandas", "tqdm") if name in sys.modules]
print(json.dumps({"seconds": seconds, "heavy": heavy}))
"""


def imported() -> dict[str, object]:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(run.stdout)
    return found


def test_importing_brings_no_other_library() -> None:
    assert imported()["heavy"] == []


def test_importing_takes_less_than_150_milliseconds() -> None:
    # Of the processor: how busy the machine is says nothing about the package.
    best = min(float(str(imported()["seconds"])) for _ in range(5))
    assert best < 0.150
