"""Closed-loop evaluation: which episodes, who plays them, what was recorded, and what it says."""
