"""The gate: compile every Triton kernel for every card without one at hand, and read the machine code."""
