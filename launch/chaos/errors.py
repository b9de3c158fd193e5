"""What can be wrong with a request for faults."""


class ChaosError(ValueError):
    """The faults cannot be tried so; the message names the remedy."""
