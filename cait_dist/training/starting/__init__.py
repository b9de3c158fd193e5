"""What comes before the first step: checks, what follows from a configuration, the attempt, the model to start from."""
