"""A fault that a test puts into rank 1. Python runs sitecustomize at its start: no hook is in the product."""

from pathlib import Path

FAULT = """
import os
if os.environ.get("RANK") == "1":
    import cait_dist.training.step as step
    original, calls = step.TrainingStep.run, []
    def run(self, batches):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError(f"the fault that the test has put in, process {os.getpid()}")
        return original(self, batches)
    step.TrainingStep.run = run
"""


def raise_in_fourth_step(folder: Path) -> dict[str, str]:
    """Write the fault; returns the variables that make ranks run into it."""
    (folder / "sitecustomize.py").write_text(FAULT)
    return {"PYTHONPATH": str(folder)}
