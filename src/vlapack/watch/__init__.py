"""A run while it is played: how far it is, what fails, and when it will be done. Its folder is only read."""
