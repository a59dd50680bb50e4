"""vlapack: π0 / π0.5 policies with weights that are really 4 bits, on integer arithmetic, proven in closed loop."""

__version__ = "0.1.0"
