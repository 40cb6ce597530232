"""Write the page of benchmarks: python benchmarks/speed.py [PAGE] [--quick]

All sections on one and on two threads; with --quick the main ones, in few turns. Wants an otherwise idle machine.
"""

from __future__ import annotations

import sys

from chainrule.bench import SECTIONS, run, write

quick = "--quick" in sys.argv
places = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
if quick:
    results = run(threads=(1,), repetitions=3)
else:
    results = run(list(SECTIONS), threads=(1, 2), repetitions=15)
write(results, places[0] if places else "docs/benchmarks.md")
