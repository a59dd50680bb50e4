"""One module per subcommand: what it does, as a function that returns the exit code."""
