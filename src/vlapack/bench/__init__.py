"""How fast a policy answers on this machine, what it holds, and how far that is from what the CPU could do."""
