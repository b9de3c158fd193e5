"""What a run leaves behind: its directory, which is the truth, and MLflow, which mirrors it."""
