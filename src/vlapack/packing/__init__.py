"""From a checkpoint to a pack: calibrate block by block, quantize, write, and resume after a kill."""
