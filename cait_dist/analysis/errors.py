"""The error that a user of an analysis sees."""


class AnalysisError(ValueError):
    """Something cannot be analysed; the message says what, why and what can be done."""
