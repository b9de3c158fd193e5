"""What training does when something is wrong with its numbers or its data: leave out, go back, or end with a report."""
