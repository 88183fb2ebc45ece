"""Facts in texts: found whatever the wording, told apart where only the wording is alike."""

import pytest

from crashchat.metrics.facts import AGENTS, SLOTS, facts
from crashchat.metrics.text import text_sums
from crashchat.tasks import TASKS
from tests.metrics.test_metrics import texts


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("A lorry runs the red light.", {"who: truck", "signal: traffic light"}),
        ("Ego-car hits an ego-car.", {"who: ego-car", "manoeuvre: hits"}),
        ("The car turns on the turn signal.", {"who: car", "signal: turn signal"}),
        ("A car turns at the zebra crossing.", {"who: car", "manoeuvre: turns", "place: crosswalk"}),
        ("The brake lights of the bus come on.", {"who: bus", "signal: brake lights"}),
        ("A non-motor vehicle backs up.", {"who: cyclist", "manoeuvre: reverses"}),
        ("The scarlet carpet lay below a rainbow.", set()),
        ("", set()),
    ],
)
def test_what_is_stated(text, stated):
    assert facts(text) == stated


def test_texts_that_say_nothing_happened_state_nothing():
    assert all(not facts(task.negative_answer or "") for task in TASKS.values())


def test_agents_and_manoeuvres_are_found_by_their_own_names():
    assert all(facts(f"the {agent}") == {f"who: {agent}"} for agent in AGENTS)
    named = SLOTS["manoeuvre"]
    assert all(facts(f"it {manoeuvre}") == {f"manoeuvre: {manoeuvre}"} for manoeuvre in named)


def test_who_did_it_to_whom_is_a_fact():
    one, other = facts("A car does not notice the truck."), facts("A truck does not notice the car.")
    assert one ^ other == {"who: car", "other: truck", "who: truck", "other: car"}


def test_other_words_for_the_same_crash_beat_the_same_words_for_another():
    truth = "The truck does not notice the cyclist when it turns at the intersection."
    reworded = "A lorry, turning, overlooked someone on a bicycle at the junction."
    alike = "The car does not notice the cars when it stops at the roadside."
    (one, two) = (text_sums(texts((truth, answer)), "gt", "pred").metrics() for answer in (reworded, alike))
    assert one["facts_f1"] == 1.0 and two["facts_f1"] < 0.3
    assert one["BLEU"] < two["BLEU"] and one["rougeL_f"] < two["rougeL_f"]


def test_figures_count_every_fact_alike():
    pairs = [
        ("A car brakes.", "A car turns at night."),  # 1 of 3 said, 1 of 2 true
        ("no collision.", "A bus hits a car."),  # 3 made up
        ("The truck skids on ice.", ""),  # 3 not told
        ("no collision.", "no collision."),
    ]
    sums = text_sums(texts(*pairs), "gt", "pred")
    metrics, released = sums.metrics(), sums.metrics("released")
    assert metrics["facts_precision"] == pytest.approx(1 / 6)
    assert metrics["facts_recall"] == pytest.approx(1 / 5)
    assert metrics["facts_f1"] == pytest.approx(2 / 11)
    assert released["facts_recall"] == pytest.approx(1 / 2)  # the pair without an answer left out
    nothing = text_sums(texts(("no collision.", "no collision.")), "gt", "pred").metrics()
    assert nothing["facts_f1"] is nothing["facts_precision"] is None
