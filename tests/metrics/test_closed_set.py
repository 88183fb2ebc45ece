"""An answer read as the choice of a training answer."""

import pytest

from crashchat.metrics.closed_set import nearest, same_choice
from crashchat.metrics.text import Extras, text_sums
from tests.metrics.test_metrics import texts

KNOWN = [
    "No accident, no cause.",
    "The truck does not notice the ego-car.",
    "The ego-car does not notice the truck.",
    "The motorbike loses its balance.",
]


def test_nearest_is_by_shared_words_in_a_row():
    said = [
        *KNOWN,
        "A truck, which does not notice the ego-car!",
        "ego-car does not notice a truck",
        "its balance is lost",
        "no accident",
        "42 giraffes",
        "",
    ]
    assert nearest(said, KNOWN).tolist() == [0, 1, 2, 3, 1, 2, 3, 0, -1, -1]


def test_a_long_text_that_names_everything_is_nearest_to_what_it_mostly_says():
    assert nearest([" ".join([*KNOWN[:1], *KNOWN[2:]])], KNOWN).tolist() == [2]


def test_texts_without_words():
    assert nearest(["!", "?", "a"], ["!"]).tolist() == [0, -1, -1]
    assert same_choice([], KNOWN) == []


def test_right_is_what_means_the_truths_training_answer():
    pairs = [
        (KNOWN[1], "A truck that does not notice the ego-car"),
        (KNOWN[1], KNOWN[2]),
        (KNOWN[3], ""),
        # A truth that training never had stands for the nearest that it had.
        ("The motorbike loses balance on sand.", f" {KNOWN[3]} "),
    ]
    assert same_choice(pairs, KNOWN) == [True, False, False, True]
    sums = text_sums(texts(*pairs), "gt", "pred", Extras(known=tuple(KNOWN)))
    assert sums.metrics()["closed_set_accuracy"] == 0.5
    assert sums.metrics("released")["closed_set_accuracy"] == pytest.approx(2 / 3)
    assert text_sums(texts(*pairs), "gt", "pred").metrics()["closed_set_accuracy"] is None
