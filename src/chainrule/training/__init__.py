"""Training: update rules, schedules, and the loop. Only the loop writes θ."""
