"""What the watcher does: the runtime's events become hints, replicas' lines are carried to who reads them, and what
is ready is asked whether it still answers. Losing any of it costs nothing but time: the sweep looks at every endpoint
anyway, and the runtime keeps the logs."""
