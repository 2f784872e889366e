"""What counts as good: suites, tasks, gate policy and its statistics."""
