"""What the programs in ``benchmarks`` are made of: a room for each, and beside them what several of them share."""
