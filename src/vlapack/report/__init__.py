"""One page that answers "may I ship this pack?" from what the other commands left behind."""
