"""From run directories and MLflow to `RunData`."""
