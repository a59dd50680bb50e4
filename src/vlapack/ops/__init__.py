"""The operations that a packed linear runs, each with one schema and a torch reference that defines it."""
