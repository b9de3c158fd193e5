"""How a rank and its node are doing: signs of life, who is waited for, who is slow, and norms of the weights."""
