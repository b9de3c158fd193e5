"""How fast a machine is, as it was measured, and how long a step takes at those rates."""
