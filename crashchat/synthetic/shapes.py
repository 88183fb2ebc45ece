"""Road users as flat shapes in metres, from behind and from the side."""

import numpy as np

RGB = {
    "white": (238, 238, 238),
    "blue": (40, 90, 220),
    "yellow": (240, 205, 30),
    "green": (30, 150, 70),
    "black": (28, 28, 32),
    "purple": (150, 60, 180),
}
DARK, TYRE, SKIN, GLASS = (36, 36, 40), (18, 18, 20), (226, 178, 146), (70, 92, 112)
_ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)

# Corners float[n, 2] in metres (right, up from the ground), and a colour.
Shape = tuple[np.ndarray, tuple[int, int, int]]


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """Corners of a rectangle, float[4, 2]. Metres."""
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)])


def disc(x: float, y: float, radius: float, tall: float | None = None) -> np.ndarray:
    """Corners of a disc, or of an ellipse with another radius upwards, float[12, 2]. Metres."""
    return _CIRCLE * (radius, radius if tall is None else tall) + (x, y)


def shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """A colour in another light: less than 1 is darker."""
    red, green, blue = (int(min(255, channel * factor)) for channel in colour)
    return red, green, blue


def _wheels(places: list[tuple[float, float]], radius: float) -> list[Shape]:
    return [
        shape
        for x, y in places
        for shape in ((disc(x, y, radius), TYRE), (disc(x, y, radius * 0.5), (170, 170, 174)))
    ]


def _lights(half: float, height: float, size: float, on: bool) -> list[Shape]:
    """Two rear lights; lit ones are larger, with a glow, so that they are seen from afar."""
    shapes: list[Shape] = []
    for x in (-half, half):
        if on:
            shapes += [
                (disc(x, height, size * 1.9), (255, 70, 50)),
                (disc(x, height, size * 1.25), (255, 0, 0)),
            ]
        else:
            shapes.append((disc(x, height, size * 0.7), (92, 12, 12)))
    return shapes


def from_behind(kind: str, paint: tuple[int, int, int], braking: bool) -> list[Shape]:
    """A road user that goes away from the camera."""
    dark = shade(paint, 0.72)
    if kind == "car":
        return [
            (box(-1.05, 0, -0.6, 0.5), TYRE),
            (box(0.6, 0, 1.05, 0.5), TYRE),
            (np.array([(-0.95, 1.0), (0.95, 1.0), (0.7, 1.75), (-0.7, 1.75)]), paint),
            (np.array([(-0.75, 1.08), (0.75, 1.08), (0.58, 1.6), (-0.58, 1.6)]), GLASS),
            (box(-1.15, 0.3, 1.15, 1.05), paint),
            (box(-1.15, 0.3, 1.15, 0.5), dark),
            (box(-0.3, 0.5, 0.3, 0.68), (230, 230, 220)),
            *_lights(0.85, 0.82, 0.24, braking),
        ]
    if kind == "truck":
        return [
            (box(-1.25, 0, -0.7, 0.8), TYRE),
            (box(0.7, 0, 1.25, 0.8), TYRE),
            (box(-1.4, 0.45, 1.4, 0.9), DARK),
            (box(-1.45, 0.85, 1.45, 3.6), paint),
            (box(-1.25, 1.05, -0.06, 3.4), dark),
            (box(0.06, 1.05, 1.25, 3.4), dark),
            *_lights(1.05, 0.75, 0.28, braking),
        ]
    if kind == "motorbike":
        return [
            (box(-0.22, 0, 0.22, 0.9), TYRE),
            (box(-0.5, 0.55, 0.5, 1.0), DARK),
            (box(-0.65, 1.15, 0.65, 1.27), TYRE),
            (np.array([(-0.42, 0.9), (0.42, 0.9), (0.5, 1.65), (-0.5, 1.65)]), paint),
            (disc(0, 1.9, 0.32), (20, 20, 24)),
            (box(-0.28, 1.84, 0.28, 1.94), (200, 200, 205)),
            *_lights(0.3, 0.78, 0.2, braking),
        ]
    return from_the_side(kind, paint, 0.0, slim=0.75)


def from_the_side(kind: str, paint: tuple[int, int, int], step: float, slim: float = 1.0) -> list[Shape]:
    """A road user seen from the side, going right; step in -1..1 swings the legs."""
    dark = shade(paint, 0.72)
    if kind == "car":
        return [
            (np.array([(-1.3, 0.95), (1.0, 0.95), (0.5, 1.7), (-0.9, 1.7)]), paint),
            (np.array([(-1.05, 1.0), (0.75, 1.0), (0.4, 1.55), (-0.8, 1.55)]), GLASS),
            (box(-0.2, 0.95, -0.08, 1.6), paint),
            (box(-2.1, 0.35, 2.1, 1.05), paint),
            (box(-2.1, 0.35, 2.1, 0.5), dark),
            (box(1.9, 0.65, 2.1, 0.9), (255, 240, 170)),
            *_wheels([(-1.3, 0.4), (1.3, 0.4)], 0.42),
        ]
    if kind == "truck":
        return [
            (box(-2.7, 0.5, 2.5, 0.9), DARK),
            (box(-2.7, 0.8, 1.2, 3.6), paint),
            (box(-2.5, 1.0, 1.0, 1.3), dark),
            (box(1.35, 0.6, 2.7, 2.6), dark),
            (box(1.8, 1.6, 2.65, 2.4), GLASS),
            *_wheels([(-2.0, 0.5), (-0.9, 0.5), (1.9, 0.5)], 0.52),
        ]
    if kind == "motorbike":
        return [
            *_wheels([(-0.75, 0.42), (0.75, 0.42)], 0.45),
            (np.array([(-0.9, 0.6), (0.7, 0.5), (0.6, 1.05), (-0.8, 0.95)]), DARK),
            (box(0.45, 0.9, 0.6, 1.4), TYRE),
            (np.array([(-0.5, 0.95), (0.1, 0.95), (0.3, 1.65), (-0.25, 1.65)]), paint),
            (np.array([(0.1, 1.35), (0.6, 1.3), (0.6, 1.45), (0.15, 1.55)]), paint),
            (disc(0.1, 1.92, 0.3), (20, 20, 24)),
        ]
    if kind == "cyclist":
        knee = 0.12 * step
        wheels = []
        for x in (-0.62 * slim, 0.62 * slim):
            wheels += [
                (disc(x, 0.44, 0.46 * slim, 0.46), TYRE),
                (disc(x, 0.44, 0.3 * slim, 0.3), (196, 200, 204)),
            ]
        return [
            *wheels,
            (np.array([(-0.6 * slim, 0.42), (0, 0.85), (0.6 * slim, 0.42), (0, 0.72)]), (210, 60, 40)),
            (np.array([(-0.25, 1.0), (0, 1.0), (0.12 + knee, 0.4), (-0.02 + knee, 0.4)]), DARK),
            (np.array([(-0.35 * slim, 0.95), (0.1, 0.95), (0.35 * slim, 1.6), (-0.2 * slim, 1.65)]), paint),
            (disc(0.1, 1.9, 0.25), SKIN),
        ]
    swing = 0.34 * step
    return [
        (np.array([(-0.15, 0.95), (0.12, 0.95), (0.12 + swing, 0), (-0.12 + swing, 0)]), DARK),
        (np.array([(-0.12, 0.95), (0.15, 0.95), (0.12 - swing, 0), (-0.12 - swing, 0)]), (58, 58, 70)),
        (box(-0.32, 0.85, 0.32, 1.65), paint),
        (box(-0.42, 1.0, -0.28, 1.6), dark),
        (box(0.28, 1.0, 0.42, 1.6), dark),
        (disc(0, 1.9, 0.27), SKIN),
    ]
