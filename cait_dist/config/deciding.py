"""Which settings decide what is computed, and which only how the work is done."""

MAY_CHANGE = (
    "runs_dir", "data.path", "data.format", "data.workers", "data.prefetch", "data.on_corrupt",
    "data.most_corrupt_share", "data.remote.", "training.zero.",
    "training.micro_batch_limit", "training.precision", "training.float8", "training.activation_checkpointing",
    "training.compile", "training.checkpoint.", "training.log_every", "training.health_every",
    "training.most_skipped_steps", "training.rollback.", "training.collective_timeout", "training.hang_timeout",
    "training.slow_node_factor", "training.slow_nodes",
    "evaluation.", "tracking.", "model.init_from", "model.init_weights", "distillation.teacher", "distillation.labels",
)  # fmt: skip
"""May change when a run is resumed: how the work is done. Everything else decides what is computed."""

NAMES_THE_RUN = ("name", "runs_dir", "tracking.")
"""Says which run it is and where it is kept, nothing about it."""

DECIDES_FROM_THE_START = (
    "training.precision", "training.float8", "model.init_from", "model.init_weights", "distillation.teacher",
    "distillation.labels", "evaluation.crop_ratio",
)  # fmt: skip
"""May change when a run is resumed, yet makes another result of a run that begins with it."""


def names_the_run(key: str) -> bool:
    """Whether a dotted key only tells runs apart."""
    return _is_one_of(key, NAMES_THE_RUN)


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value under a dotted key."""
    return _is_one_of(key, MAY_CHANGE)


def decides_result(key: str) -> bool:
    """Whether two runs that differ in this setting alone may come to different results.

    Where the data lie decides nothing, what they are does: that is for their digests to tell.
    """
    return _is_one_of(key, DECIDES_FROM_THE_START) or not (may_change(key) or names_the_run(key))


def _is_one_of(key: str, patterns: tuple[str, ...]) -> bool:
    return any(key == pattern or (pattern.endswith(".") and key.startswith(pattern)) for pattern in patterns)
