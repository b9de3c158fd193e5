"""Comparing runs: which is better, why, at what cost, whether the difference is real, and how it stands to the paper.

::

    run directories, MLflow ──► reading ──► RunData ──► compare_runs, judging ──► Comparison ──► showing, gate

``run_data`` and ``comparison`` hold the two kinds of facts that pass through; everything before `Comparison` measures,
everything after it only shows. This room reads and never writes into a run.
"""
