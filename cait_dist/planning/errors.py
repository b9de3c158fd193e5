"""What keeps a plan from being made, and what to do about it."""


class PlanError(ValueError):
    """A wrong wish; ``str()`` is one line for the user."""
