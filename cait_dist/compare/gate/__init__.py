"""`--fail-if`: a condition that a pipeline asks of a comparison, in a small language of its own."""
