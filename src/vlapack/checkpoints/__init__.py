"""Folders that hold policies, each opened as one Checkpoint."""
