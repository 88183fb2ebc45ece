"""Clips an hour, and how long each takes, of a `crashchat serve` that some clients ask at once.

    crashchat serve --model outputs/demo/merged/heterogeneous --port 7870
    python benchmarks/serve.py clips/ --server http://127.0.0.1:7870 --clients 1 4 16 64

Each client sends a clip, waits for its result and sends the next; where the server is full it asks again when
the server says. Another server beside it (--other: with engine=vllm, say) is asked turn by turn in the same
run, so that their ratio means something on a machine that has other work too. What it prints is a Markdown
table. Every answer is looked at: one that is not 200 or 422 ends the run.
"""

import argparse
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx


def ask(server: str, clip: Path) -> float:
    """Seconds from sending a clip to its result."""
    started, data = time.monotonic(), clip.read_bytes()
    while True:
        answer = httpx.post(f"{server}/api/analyze", files={"file": (clip.name, data)}, timeout=3600)
        if answer.status_code != 503:
            break
        time.sleep(0.1)  # sooner than it says: this is a benchmark
    if answer.status_code not in (200, 422):
        raise SystemExit(f"{clip}: {server} answers {answer.status_code}: {answer.text[:200]}")
    return time.monotonic() - started


def measure(server: str, clips: list[Path], clients: int) -> tuple[float, list[float]]:
    """(clips an hour, seconds of each)"""
    count = max(len(clips), 4 * clients)
    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        chosen = itertools.islice(itertools.cycle(clips), count)
        seconds = list(pool.map(lambda clip: ask(server, clip), chosen))
    return 3600 * count / (time.monotonic() - started), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, help="a folder of .mp4 files")
    parser.add_argument("--server", required=True, help="http://HOST:PORT of one that runs")
    parser.add_argument("--other", help="of another, to be compared")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments = parser.parse_args()
    clips = sorted(arguments.clips.glob("*.mp4"))
    if not clips:
        raise SystemExit(f"{arguments.clips}: no .mp4 in it")
    servers = [server for server in (arguments.server, arguments.other) if server]
    for server in servers:
        ask(server, clips[0])  # warms it up
    print(
        "| clients | server | clips an hour | p50 s | p95 s | p99 s |\n| --- | --- | --- | --- | --- | --- |"
    )
    for clients in arguments.clients:
        for server in servers:
            rate, seconds = measure(server, clips, clients)
            cuts = statistics.quantiles(seconds, n=100, method="inclusive")
            times = " | ".join(f"{cuts[share - 1]:.2f}" for share in (50, 95, 99))
            print(f"| {clients} | {server} | {rate:,.0f} | {times} |", flush=True)


if __name__ == "__main__":
    main()
