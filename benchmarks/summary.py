"""One table of what the benchmarks wrote: python benchmarks/summary.py [FOLDER]"""

import json
import sys
from pathlib import Path

KEPT = ("ratio", "MFU", "loss difference", "gradient difference", "same tokens")


def main(words: list[str]) -> int:
    """Print it; returns the exit code."""
    folder = Path(words[0]) if words else Path(__file__).parent / "results"
    files = sorted(folder.glob("*.json"))
    if not files:
        print(f"error: {folder} holds no results; run the benchmarks first", file=sys.stderr)
        return 1
    print(f"{'result':36}{'device':28}{'seconds':>10}{'peak GiB':>10}  figures")
    for path in files:
        result = json.loads(path.read_text())
        shared = result.get("ways", {}).get("shared", {})
        cells = [f"{shared[key]:.3g}" if shared.get(key) else "-" for key in ("seconds", "peak GiB")]
        figures = ", ".join(
            f"{key} {result[key]:.3g}" if isinstance(result[key], float) else f"{key} {result[key]}"
            for key in KEPT
            if key in result
        )
        print(f"{path.stem:36}{result['machine']['device'][:26]:28}{cells[0]:>10}{cells[1]:>10}  {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
