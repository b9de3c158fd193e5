"""What a run will need, before it is submitted: arithmetic, memory and time, from the configuration alone."""
