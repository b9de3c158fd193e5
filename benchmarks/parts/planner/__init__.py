"""The planner against real steps: the points that are measured, and the process that measures one."""
