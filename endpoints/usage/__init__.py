"""What was used: counting the time of replicas, reading it all, and showing it."""
