"""`python -m tests.chaos --seconds 600 --seed 7`: ends with 1 if anything failed that is promised."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

from tests.chaos.report import report
from tests.chaos.run import BACKENDS, LAUNCHES, run
from userspace_proxy.demo import isolation


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    parser.add_argument("--rate", type=float, default=100, help="clients a second")
    parser.add_argument("--folder", type=Path, help="where manifests and the agents' logs are to stay")
    parser.add_argument("--backend", choices=BACKENDS, default="", help="otherwise the seed's")
    parser.add_argument("--launch", choices=LAUNCHES, default="", help="otherwise the seed's")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    isolation.enter()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        result = run(
            arguments.seed,
            arguments.seconds,
            folder,
            rate=arguments.rate,
            backend=arguments.backend,
            launch=arguments.launch,
        )
    print(report(result))
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
