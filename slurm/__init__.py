"""What belongs to SLURM itself and not to training: profiles of clusters, and a small real cluster on one machine."""
