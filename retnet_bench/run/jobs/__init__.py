"""Pairs as jobs, of this machine or of Slurm; launchers/ starts the workers of a pair."""
