"""What the benchmarks share. Whatever they import from here, vlapack comes before torch."""

import vlapack  # noqa: F401  torch's waiting threads then leave their cores to others
