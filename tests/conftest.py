"""What holds for every test."""

from hypothesis import settings

# A shared machine may take any time over one example; pytest-timeout ends what hangs.
settings.register_profile("here", deadline=None)
settings.load_profile("here")
