"""Which layers deserve how many bits: measure, allocate, prove."""
