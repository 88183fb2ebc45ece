"""Two nodes: network namespaces with a cable between them, a launcher in each, and one that is lost and
comes back.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.commands import ENVIRONMENT, ROOT, TRAIN_CONFIG, distance, settings_of

DEADLINE = 900  # seconds; on an idle machine a minute
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def two_nodes():
    """Names of two network namespaces that reach each other at ADDRESSES, and nothing else."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    names = [f"crashchat-{os.getpid()}-{number}" for number in (0, 1)]
    cables = [f"cc{os.getpid() % 100000}n{number}" for number in (0, 1)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip(
                "link",
                "add",
                cables[0],
                "netns",
                names[0],
                "type",
                "veth",
                "peer",
                cables[1],
                "netns",
                names[1],
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, cables, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def start(node: int, two_nodes, words: list[str], log: Path) -> subprocess.Popen:
    """The launcher of one node, which begins a session, as on a machine of its own."""
    name, cable = two_nodes[node]
    environment = ENVIRONMENT | {
        "NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29511",
        "NODE_ADDR": ADDRESSES[node], "GLOO_SOCKET_IFNAME": cable, "MAX_RESTARTS": "3",
    }  # fmt: skip
    command = ["ip", "netns", "exec", name, "bash", "scripts/launch.sh", "train", TRAIN_CONFIG, "1", *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_a_lost_node_comes_back_and_the_run_goes_on(two_nodes, trained_by_two, tiny_data, tmp_path):
    out = tmp_path / "out"
    words = settings_of(tiny_data, out, "eval_steps=1", "save_steps=1")
    logs = [tmp_path / "node0.log", tmp_path / "node1.log"]
    nodes = [start(number, two_nodes, words, logs[number]) for number in (0, 1)]
    end = time.monotonic() + DEADLINE
    try:
        while not (out / "checkpoint-2").is_dir():
            assert time.monotonic() < end and nodes[0].poll() is None, logs[0].read_text()[-4000:]
            time.sleep(0.05)
        os.killpg(nodes[1].pid, signal.SIGKILL)
        nodes[1].wait()
        nodes[1] = start(1, two_nodes, words, logs[1])
        for node in nodes:
            node.wait(max(1, end - time.monotonic()))
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
    text = "\n".join(log.read_text() for log in logs)
    assert [node.returncode for node in nodes] == [0, 0], text[-6000:]
    assert "going on from" in text
    assert distance(trained_by_two, out) < 2e-4
