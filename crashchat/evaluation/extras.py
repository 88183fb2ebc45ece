"""Scores that take a program or a model: the options that ask for them, and these made ready."""

import argparse

from crashchat.evaluation.bertscore import BertScore
from crashchat.evaluation.semantic import Semantic
from crashchat.metrics.meteor import MetricError, has_java
from crashchat.metrics.text import Extras


def add_extras(parser: argparse.ArgumentParser) -> None:
    """The options that `extras_of` reads."""
    parser.add_argument(
        "--no-meteor",
        action="store_true",
        help="leave METEOR out of the text scores: its Java program starts slowly",
    )
    parser.add_argument(
        "--bertscore-model",
        metavar="FOLDER",
        help="compute BERTScore with it, e.g. roberta-large",
    )
    parser.add_argument(
        "--bertscore-layer",
        type=int,
        metavar="N",
        help="which layer of it (default: the one its authors chose)",
    )
    parser.add_argument(
        "--semantic",
        action="store_true",
        help="compute likeness in meaning; needs pip install -r requirements-semantic.txt",
    )


def extras_of(arguments: argparse.Namespace) -> Extras:
    """METEOR unless declined or without Java, BERTScore with a model, the semantic score where asked for.

    Raises MetricError for a model that cannot be used.
    """
    semantic = Semantic() if arguments.semantic else None
    folder = arguments.bertscore_model
    try:
        bertscore = BertScore(folder, arguments.bertscore_layer) if folder else None
    except (OSError, ValueError) as error:
        raise MetricError(f"--bertscore-model {error}") from error
    return Extras(not arguments.no_meteor and has_java(), bertscore=bertscore, semantic=semantic)
