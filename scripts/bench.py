"""Measure fedmed against the bare loops that it contains, side by side, in turn, several times.

python scripts/bench.py engines [override …] [--repeats 5] [--rounds 10] [--no-ray] [--pfl PYTHON]
python scripts/bench.py store [--repeats 5] [--images 400] [--workers 2]
python scripts/bench.py privacy [--repeats 5] [--model densenet121] [--batch 32]
python scripts/bench.py distributed --root HEART_DISEASE [--seeds 1 2 3] [--noise 1 2 4]
python scripts/bench.py scale [--clients 10 100 1000 10000] [--rounds 6]
python scripts/bench.py record [--repeats 5] [--clients 4] [--steps 10] [--batch 16]
python scripts/bench.py gpu [--repeats 5]
python scripts/bench.py aggregation [--ways WAY …] [--weights N …] [--clients K …] [--write PAGE]

Each prints a table and writes bench-NAME.json into --out; most draw bench-NAME.png too.
What is measured, and against what, is told in scripts/benchmarks/NAME.py. This file
stays light: worker processes import it too.
"""

import argparse
import json
import os
import platform
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from fedmed.core.terminal import tolerate

# Not this folder: for other packages, datasets is Hugging Face's.
sys.path[0] = str(Path(__file__).parent / "benchmarks")
os.environ.setdefault("TQDM_DISABLE", "1")  # flwr-datasets' bars
NAMES = ("engines", "store", "privacy", "distributed", "scale", "record", "gpu", "aggregation")


def main() -> None:
    """Print a table and write the record."""
    tolerate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path())
    name = parser.parse_known_args()[0].name
    benchmark = import_module(name)
    benchmark.add_arguments(parser)
    arguments = parser.parse_args()
    table, record = benchmark.measure(arguments)
    from rich.console import Console

    Console().print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"bench-{name}.json"
    target.write_text(json.dumps({"machine": machine, **record}, indent=2) + "\n")
    if hasattr(benchmark, "draw"):
        figure = benchmark.draw(record)
        figure.suptitle(f"{name}: {machine}", fontsize=9)
        figure.savefig(target.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
