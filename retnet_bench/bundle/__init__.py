"""What is passed on: a study's results in one archive that can be checked and run elsewhere."""
