"""Learning from a teacher besides the labels: who it is, what it says, what that adds to the loss."""
