"""The training loop, and everything that must agree between its ranks.

Read in this order: ``trainer`` (build, run, close) → ``step`` (one optimizer step) → ``parallel`` (how a plain model
becomes a partitioned one) → ``zero_partition`` (where DeepSpeed keeps which numbers) → ``checkpoint``.
"""
