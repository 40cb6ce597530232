"""Write the page of benchmarks: python benchmarks/speed.py [PAGE] [--quick]

All sections on one and on two threads; with --quick the main ones, in few turns. Wants an otherwise idle machine.
"""

from __future__ import annotations

import sys

from chainrule.bench import SECTIONS, run, write

places = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
full = {"sections": list(SECTIONS), "threads": (1, 2), "repetitions": 15}
results = run(**({"repetitions": 3} if "--quick" in sys.argv else full))
write(results, places[0] if places else "docs/benchmarks.md")
