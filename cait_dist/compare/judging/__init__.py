"""From `RunData` to what there is to say: differences, groups, tests, cost, the paper, cautions, the verdict."""
