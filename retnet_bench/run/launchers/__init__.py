"""How a worker process is started: one file a launcher."""
