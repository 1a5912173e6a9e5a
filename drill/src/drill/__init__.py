"""The fault drill: load the running stack, break it on purpose, and count what was lost."""
