"""The `triton` engine: the ops as Triton kernels, for NVIDIA's and AMD's GPUs; its modules import Triton."""
