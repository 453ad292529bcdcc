"""What the verbs `list`, `data`, `env` and `plan` print; it needs both wings."""
