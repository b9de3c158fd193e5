"""What a run takes, counted from its configuration: arithmetic, memory, and what ranks send each other."""
