"""Work shared by processes: batches as of one process, deaths survived, and those who kill named."""

from functools import partial

import pytest

from crashchat.fleet import Fleet, FleetError, Lost
from tests.helpers.fleets import FATAL, Answerer, Broken, Reader

ray = pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")


def fits(sizes: list[int], limit: int) -> bool:
    return len(sizes) == 1 or (len(sizes) <= 4 and len(sizes) * max(sizes) <= limit)


def batches_of_one_process(items: list, limit: int) -> dict[str, int]:
    """{what was read: how many are answered together}"""
    batches: list[list] = [[]]
    for item in items:
        sizes = [Reader().read(one)[0] for one in [*batches[-1], item]]
        if batches[-1] and not fits(sizes, limit):
            batches.append([])
        batches[-1].append(item)
    return {f"read {item}": len(batch) for batch in batches for item in batch}


@pytest.fixture(scope="module")
def fleet():
    with Fleet("local") as running:
        yield running


def test_who_kills_is_named_and_all_others_are_answered_as_by_one_process(fleet, tmp_path):
    items = [10**number for number in range(12)]
    expected = batches_of_one_process(items, 12)
    answerers = fleet.open_answerers(Answerer, tmp_path)
    assert fleet.ask(answerers, "word") == "ready"

    def spread(items: list) -> dict:
        found = {}
        rounds = fleet.spread(items, (Reader,), answerers, fits=partial(fits, limit=12), most=4)
        for members, answers in rounds:
            for place, number in enumerate(members):
                assert number not in found
                found[number] = answers if isinstance(answers, Lost) else answers[place]
        return found

    assert dict(spread(items).values()) == expected
    # A process that dies once costs no answer, and changes no batch.
    again = [*items[:5], "once", *items[5:]]
    assert dict(spread(again).values()) == batches_of_one_process(again, 12)
    assert (tmp_path / "once").exists()
    deadly = [*items[:3], f"{FATAL}reads", *items[3:7], f"{FATAL}answers", *items[7:]]
    found = spread(deadly)
    assert found.keys() == set(range(len(deadly)))
    lost = {deadly[number]: str(answer) for number, answer in found.items() if isinstance(answer, Lost)}
    assert lost == {
        f"{FATAL}reads": "3 processes died one after the other while reading it",
        f"{FATAL}answers": "3 processes died one after the other while answering it",
    }
    read = {answer[0] for answer in found.values() if not isinstance(answer, Lost)}
    assert read == {f"read {item}" for item in items}


def test_an_error_is_raised(fleet):
    with pytest.raises(ValueError, match="cannot answer"):
        list(fleet.spread([1, 2], (Reader,), fleet.open_answerers(Broken)))


def test_an_address_without_cluster_is_told():
    with pytest.raises(FleetError, match="ray=127.0.0.1:1: "):
        Fleet("127.0.0.1:1")
