"""Where texts come from: one source a file."""
