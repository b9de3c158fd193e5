"""The plan as JSON, with all that was counted. Bytes, seconds, and FLOP/s throughout."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..options import Option
from ..run_plan import RunPlan
from .advice import advice, basis, warnings


def plan_as_dict(plan: RunPlan) -> dict[str, Any]:
    """Everything of a plan, ready for ``json.dumps``."""
    situation, request = plan.situation, plan.request
    calibration = situation.calibration
    return {
        "config": situation.config.name,
        "model": asdict(situation.arch),
        "precision": situation.config.training.precision,
        "global_batch": situation.config.training.global_batch,
        "attention": situation.backend,
        "kept_share": 1 - situation.arch.drop_path_rate,
        "gpu": asdict(request.gpu),
        "gpus": request.gpus,
        "network": asdict(situation.network),
        "budget_bytes": situation.budget,
        "train_images": plan.data_images,
        "parameters": {**asdict(plan.params), "total": plan.params.total},
        "macs": {**asdict(plan.macs), "total": plan.macs.total},
        "times_are": "predictions" if plan.calibrated else "bounds",
        "calibration": None if calibration is None else {"hardware": calibration.hardware, "date": calibration.date},
        "options": [_option(option) for option in plan.options],
        "configured": _option(plan.configured),
        "recommended": _option(plan.recommended),
        "duration": asdict(plan.duration),
        "scaling": [asdict(point) for point in plan.scaling],
        "basis": basis(plan),
        "advice": advice(plan),
        "warnings": warnings(plan),
    }


def _option(option: Option) -> dict[str, Any]:
    state, activations = option.state, option.activations
    return {
        "policy": option.policy,
        "stage": option.stage,
        "fits": option.fits,
        "most_images": option.most_images,
        "micro_batch": option.images,
        "accumulation": option.accumulation,
        "peak_bytes": option.peak_bytes,
        "state": {
            **asdict(state),
            "steady": state.steady,
            "beside_activations": state.beside_activations,
            "for_update": state.for_update,
        },
        "activations": {
            "kept_per_image": activations.kept_per_image,
            "kept_per_batch": activations.kept_per_batch,
            "workspace": activations.workspace(option.images),
            "peak": activations.peak(option.images) if option.images else None,
        },
        "flops_per_step": option.flops,
        "traffic": {**asdict(option.traffic), "total": option.traffic.total},
        "network_seconds": option.network_seconds,
        "step_seconds": option.step_seconds,
        "time": None if option.time is None else asdict(option.time),
    }
