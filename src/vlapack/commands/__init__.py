"""One module per subcommand: what a process of ours does, as a function that returns its exit code.

Such a process shares its cores with others, simulators above all. OpenMP's threads spin by default while they wait
for each other; when a simulator holds one of their cores, the rest burn theirs until it lets go (measured on two busy
cores: 0.1 s → 10 s a chunk). To sleep at once costs as well: work in pieces that fit the CPU's cache would wake its
threads thousands of times a second (to round a weight then takes twice as long). So they spin for some microseconds
and then sleep, unless the user says otherwise. OpenMP reads this once, when torch is imported, which no command does
before its function runs.
"""

from __future__ import annotations

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
