"""The LIBERO simulator: environments, episodes, a scripted expert, recordings. Knows no policy."""
