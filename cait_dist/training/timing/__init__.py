"""How long real steps take: on images made up, without any but one token, and beside what a plan predicts."""
