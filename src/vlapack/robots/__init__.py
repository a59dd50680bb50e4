"""What each robot calls its cameras, state and actions, and how its pictures are prepared."""
