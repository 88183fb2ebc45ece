"""Figures drawn by matplotlib without its global state, so that threads and servers may draw."""

import io

import numpy as np
from matplotlib.figure import Figure


def panels_in_a_row(
    width: float, height: float, count: int = 1, share_y: bool = False
) -> tuple[Figure, np.ndarray]:
    """(figure of width x height inches, its `count` panels as object[count])."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, sharey=share_y)[0]


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG of 110 pixels an inch."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
