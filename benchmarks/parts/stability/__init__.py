"""Which residual designs train: the short trainings behind the table, and the picture of their curves."""
