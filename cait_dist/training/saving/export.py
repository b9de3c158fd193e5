"""From a checkpoint of any world size and ZeRO stage to one file of weights."""

from pathlib import Path

from cait_dist.models.weights import save_weights
from cait_dist.tracking.run_directory import RunDirectory

from .checkpoint import read_weights
from .checkpoint_files import CheckpointError, list_checkpoints

KINDS = {"raw": "master", "ema": "ema"}


def export_weights(run_dir: Path, out: Path, weights: str = "raw", step: int | None = None) -> str:
    """Write the fp32 weights under timm's names (``.safetensors``) or as deit's ``.pth``.

    Args:
        run_dir: of the run
        out: file to write; its suffix chooses the format
        weights: ``raw`` or ``ema``
        step: of the checkpoint; None for the newest

    Returns:
        a line that says what was written

    Raises:
        CheckpointError: when there is no such checkpoint or kind of weights, or the suffix is unknown
    """
    if weights not in KINDS:
        raise CheckpointError(f"--weights must be 'raw' or 'ema', got '{weights}'")
    if out.suffix not in (".safetensors", ".pth"):
        raise CheckpointError(f"--out must end in .safetensors or .pth, got '{out}'")
    checkpoints = list_checkpoints(RunDirectory.existing(run_dir).checkpoints)
    chosen = next((c for c in reversed(checkpoints) if step in (None, c.step)), None)
    if chosen is None:
        steps = ", ".join(str(c.step) for c in checkpoints) or "none"
        raise CheckpointError(
            f"{run_dir} has no complete checkpoint{f' of step {step}' if step else ''} (complete: {steps})"
        )
    damage = chosen.damage()
    if damage:
        raise CheckpointError(f"checkpoint {chosen.path} is damaged: {damage}; choose another --step")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(read_weights(chosen, KINDS[weights]), out, format="deit" if out.suffix == ".pth" else "timm")
    return f"wrote {weights} weights of step {chosen.step} to {out}"
