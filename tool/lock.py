"""Write requirements.lock: the versions that are installed here of all that requirements.txt needs, and that
needs.

python tool/lock.py      after an upgrade whose tests have passed; the Dockerfile installs from the file
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def requirements(path: Path) -> list[Requirement]:
    """The requirements of a file, those for other platforms left out."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def needed(first: list[Requirement]) -> dict[str, str]:
    """{package: installed version} of these and of all that they need. Raises PackageNotFoundError."""
    found: dict[str, str] = {}
    waiting = [(one.name, frozenset(one.extras)) for one in first]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        package = distribution(name)
        # A build of torch for the CPU calls itself 2.13.0+cpu.
        found[re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()] = package.version.partition("+")[0]
        for line in package.requires or []:
            own = Requirement(line)
            wanted = own.marker is None or any(
                own.marker.evaluate({"extra": extra}) for extra in {"", *extras}
            )
            if wanted:
                waiting.append((own.name, frozenset(own.extras)))
    return found


def main() -> int:
    """Write the file; returns the exit code."""
    try:
        found = needed(requirements(ROOT / "requirements.txt"))
    except PackageNotFoundError as error:
        print(f"error: {error.args[0]} is not installed; run bash scripts/setup.sh first", file=sys.stderr)
        return 1
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    LOCK.write_text("# Made by tool/lock.py.\n" + "\n".join(lines) + "\n")
    print(f"{LOCK}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
