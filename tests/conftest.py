"""Settings of every test."""

from hypothesis import settings

# A shared or emulated machine is slow at times; a time limit on one example would fail for that alone.
settings.register_profile("trimaran", deadline=None, print_blob=True)
settings.load_profile("trimaran")
