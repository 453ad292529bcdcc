"""What is shown in words: tables drawn from records."""
