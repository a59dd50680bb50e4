"""The builder of shipped kernels: which launches there are, and their code."""
