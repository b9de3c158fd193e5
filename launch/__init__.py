"""Starting training where it is to run: on this machine, or through SLURM."""
