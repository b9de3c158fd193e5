"""The error that the user of a small cluster sees."""


class MiniClusterError(ValueError):
    """The cluster cannot be made, or not what was asked of it; the message says why and what to do."""
