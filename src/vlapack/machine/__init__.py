"""What machine this is: its CPU, the memory that is free, and how the allocator is tuned."""
