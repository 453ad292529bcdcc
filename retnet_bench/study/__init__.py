"""What is run: a study (YAML) becomes cells; a runner gives each its own worker process."""
