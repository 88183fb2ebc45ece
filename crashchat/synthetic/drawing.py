"""Scenes -> pictures: what a dashcam would see, drawn with flat shapes in perspective.

Crashes and calm scenes go through the same code; only sparks, smoke and a shaken camera are a crash's own.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from crashchat.synthetic.scenes import FPS, ROAD_EDGE, Actor, Contact, Scene
from crashchat.synthetic.shapes import DARK, RGB, Shape, box, disc, from_behind, from_the_side, shade

WIDTH, HEIGHT = 224, 112  # pixels of a frame
FOCAL = 120.0  # pixels
CAMERA_HEIGHT = 2.2  # metres
HORIZON = 44  # pixels from the top
BONNET = 103  # pixels from the top
MARGIN = 10  # pixels of background around the frame, for the shaken camera
FAR = 70.0  # metres: nothing is drawn beyond

# sky above, sky at the horizon, ground, road, light falling on things
PALETTES = {
    "day": ((96, 160, 232), (196, 222, 244), (104, 150, 76), (98, 98, 102), 1.0),
    "dusk": ((72, 62, 118), (240, 160, 112), (74, 92, 62), (72, 70, 80), 0.8),
    "overcast": ((152, 160, 168), (208, 212, 214), (112, 132, 98), (112, 114, 116), 0.9),
    "night": ((10, 12, 30), (38, 42, 64), (24, 32, 26), (40, 40, 46), 0.45),
    "rain": ((112, 120, 130), (160, 166, 172), (84, 102, 82), (78, 82, 90), 0.7),
}


def _background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Sky, ground and hills or houses on the horizon, wider than the frame by MARGIN on each side."""
    high, low, ground, _, light = PALETTES[scene.sky]
    width, height, horizon = WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN, HORIZON + MARGIN
    rows = np.linspace(0, 1, horizon)[:, None]
    picture = np.empty((height, width, 3), np.uint8)
    picture[:horizon] = (np.array(high) * (1 - rows) + np.array(low) * rows)[:, None]
    picture[horizon:] = ground
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 5))):  # clouds
        x, y, size = rng.uniform(0, width), rng.uniform(8, 30), rng.uniform(10, 24)
        draw.ellipse((x - size, y - size / 4, x + size, y + size / 4), fill=shade(low, 1.06))
    far = shade(
        {"trees": (60, 96, 62), "buildings": (128, 124, 130), "fields": (118, 138, 96)}[scene.roadside], light
    )
    for x in range(-10, width, 14):
        top = horizon - rng.uniform(3, 13)
        if scene.roadside == "buildings":
            draw.rectangle((x, top, x + 12, horizon), fill=far)
        else:
            draw.ellipse((x - 8, top, x + 22, horizon + (horizon - top)), fill=far)
    draw.rectangle((0, horizon, width, height), fill=ground)
    return image


class _View:
    """The camera of one frame: projects metres to pixels and draws there."""

    def __init__(self, draw: ImageDraw.ImageDraw, dx: float, dy: float):
        self.draw, self.centre, self.horizon = draw, WIDTH / 2 + dx, HORIZON + dy

    def ground(self, x: float, z: float) -> tuple[float, float]:
        return self.centre + FOCAL * x / z, self.horizon + FOCAL * CAMERA_HEIGHT / z

    def quad(self, left: float, right: float, near: float, far: float, colour: tuple[int, int, int]) -> None:
        """A strip of the ground. Metres."""
        corners = (
            self.ground(left, near),
            self.ground(right, near),
            self.ground(right, far),
            self.ground(left, far),
        )
        self.draw.polygon(corners, fill=colour)

    def standing(
        self, x: float, z: float, shapes: list[Shape], tilt: float = 0.0, mirror: bool = False
    ) -> None:
        """Upright shapes at a place, turned about their foot by `tilt` degrees clockwise."""
        foot, scale = np.array(self.ground(x, z)), FOCAL / z
        angle = np.deg2rad(tilt)
        turn = np.array([(np.cos(angle), np.sin(angle)), (np.sin(angle), -np.cos(angle))]) * scale
        for corners, colour in shapes:
            if mirror:
                corners = corners * (-1, 1)
            self.draw.polygon((corners @ turn.T + foot).ravel().tolist(), fill=colour)

    def blob(self, x: float, z: float, up: float, radius: float, colour: tuple[int, int, int]) -> None:
        px, py = self.ground(x, z)
        scale = FOCAL / z
        py, size = py - up * scale, radius * scale
        self.draw.ellipse((px - size, py - size, px + size, py + size), fill=colour)


def _road(view: _View, scene: Scene, travelled: float) -> None:
    _, _, _ground, road, light = PALETTES[scene.sky]
    view.quad(
        -ROAD_EDGE - 1.8, ROAD_EDGE + 1.8, near=2.5, far=FAR, colour=shade((176, 168, 156), light)
    )  # sidewalks
    view.quad(-ROAD_EDGE, ROAD_EDGE, near=2.5, far=FAR, colour=road)
    paint = shade((244, 244, 236), light)
    for x in (-ROAD_EDGE + 0.15, ROAD_EDGE - 0.15):
        view.quad(x - 0.1, x + 0.1, near=2.5, far=FAR, colour=paint)
    period, dash = 6.0, 2.6
    first = -(travelled % period)
    for begin in np.arange(first, 42.0, period):
        near, far = max(begin, 2.5), begin + dash
        if far > near:
            for x in (-1.75, 1.75):
                view.quad(x - 0.13, x + 0.13, near=near, far=far, colour=paint)


def _roadside(view: _View, scene: Scene, travelled: float, decor: np.ndarray) -> None:
    """Trees, houses or posts that pass by. decor: float[n, 2], random numbers of each place."""
    light = PALETTES[scene.sky][4]
    period = {"trees": 9.0, "buildings": 13.0, "fields": 11.0}[scene.roadside]
    first = int(travelled // period) + 1
    for place in range(first + 5, first - 1, -1):
        z = place * period - travelled
        if z < 3.0:
            continue
        for side in (-1, 1):
            a, b = decor[(2 * place + (side > 0)) % len(decor)]
            if scene.roadside == "trees":
                shapes = [
                    (box(-0.25, 0, 0.25, 2.0), shade((92, 66, 46), light)),
                    (disc(0, 3.4 + a, 1.5 + 0.5 * b, 1.9), shade((44 + 30 * a, 104 + 30 * b, 52), light)),
                ]
                view.standing(side * (10.5 + 2 * a), z, shapes)
            elif scene.roadside == "buildings":
                wall = shade((150 + 60 * a, 130 + 40 * b, 116 + 40 * a), light)
                shapes = [(box(-3.5, 0, 3.5, 5 + 4 * b), wall)]
                shapes += [
                    (box(x, y, x + 1.1, y + 1.2), shade((92, 104, 122), light))
                    for y in (1.2, 3.4)
                    for x in (-2.6, -0.5, 1.5)
                ]
                view.standing(side * (14.0 + a), z, shapes)
            else:
                view.standing(
                    side * (9.0 + a),
                    z,
                    [
                        (box(-0.12, 0, 0.12, 1.3), shade((206, 206, 200), light)),
                        (disc(0, 0.5, 0.9 + b, 0.7), shade((84, 124, 64), light)),
                    ],
                )


def _actor(view: _View, scene: Scene, actor: Actor, frame: int) -> None:
    x, z = float(actor.x[frame]), float(actor.z[frame])
    paint = shade(RGB[actor.colour], PALETTES[scene.sky][4])
    step = float(np.sin(frame / FPS * 9)) if actor.walking[frame] else 0.25
    if actor.heading:
        shapes = from_the_side(actor.kind, paint, step)
    else:
        shapes = from_behind(actor.kind, paint, bool(actor.braking[frame]))
    half = max(abs(corners[:, 0]).max() for corners, _ in shapes)
    view.standing(x, z, [(disc(0, 0, half * 1.05, 0.22), shade(PALETTES[scene.sky][3], 0.55))])
    view.standing(x, z, shapes, float(actor.tilt[frame]), mirror=actor.heading < 0)


def _crash(view: _View, contact: Contact, frame: int, rng: np.random.Generator) -> None:
    """Sparks and debris from the contact until all rest; smoke that grows and stays."""
    x, z = contact.impact[frame]
    z = max(float(z) - 0.3, 3.5)
    age, left = frame / FPS - contact.start, contact.end - frame / FPS
    if age > 0.35:
        size = min(1.0, (age - 0.35) / 1.2)
        for k in range(6):
            drift = 0.35 * np.sin(1.7 * k + 2.0 * frame / FPS)
            grey = 96 + 14 * k
            view.blob(
                x + drift + 0.3 * (k - 2.5),
                z,
                up=1.6 + 0.42 * k * size,
                radius=(0.35 + 0.1 * k) * size,
                colour=(grey, grey, grey),
            )
    if left > 1e-6:
        burst = 1.7 if age < 0.4 else 1.2
        angles = np.sort(rng.uniform(0, 2 * np.pi, 18))
        radii = burst * np.where(np.arange(18) % 2, 0.42, rng.uniform(0.8, 1.15, 18))
        star = np.stack([np.cos(angles) * radii, np.sin(angles) * radii + 0.9], 1)
        view.standing(x, z, [(star, (255, 120, 0)), (star * 0.55 + (0, 0.4), (255, 235, 90))])
        for _ in range(8):
            bx, by = rng.uniform(-2.2, 2.2), rng.uniform(0, 2.4)
            view.standing(x + bx, z, [(box(-0.1, by, 0.1, by + 0.2), (255, 150, 20) if by > 1 else DARK)])


def _rain(view: _View, rng: np.random.Generator) -> None:
    """Drops as slanting streaks, elsewhere in every frame."""
    for x, y, length in rng.uniform((0, 0, 4), (WIDTH, HEIGHT, 10), (70, 3)):
        view.draw.line((x, y, x - length / 4, y + length), fill=(196, 204, 212))


def draw_scene(scene: Scene) -> Iterator[np.ndarray]:
    """The frames of a scene, uint8[HEIGHT, WIDTH, 3], FPS a second; the same scene gives the same pixels."""
    rng = np.random.default_rng([*scene.seed, 1])
    background = _background(scene, rng)
    decor = rng.random((64, 2))
    offset = float(rng.uniform(0, 50))
    bonnet = shade(RGB[str(rng.choice(list(RGB)))], 0.55 * PALETTES[scene.sky][4])
    noise, drops = np.random.default_rng([*scene.seed, 2]), np.random.default_rng([*scene.seed, 3])
    for frame in range(len(scene.ego_speed)):
        dx, dy = 0, round(0.6 * np.sin(1.9 * scene.ego_distance[frame]))  # an uneven road
        # The crash, as soon as it has begun.
        contact = scene.contact if scene.contact and frame / FPS >= scene.contact.start - 1e-6 else None
        if contact and scene.subject == "ego-car" and frame / FPS < contact.end - 1e-6:
            dx, dy = (int(value) for value in noise.integers(-5, 6, 2))
        image = background.crop((MARGIN - dx, MARGIN - dy, MARGIN - dx + WIDTH, MARGIN - dy + HEIGHT))
        view = _View(ImageDraw.Draw(image), dx, dy)
        travelled = float(scene.ego_distance[frame]) + offset
        _road(view, scene, travelled)
        _roadside(view, scene, travelled, decor)
        for actor in sorted(scene.actors, key=lambda actor: -actor.z[frame]):
            if 3.2 < actor.z[frame] < FAR:
                _actor(view, scene, actor, frame)
        if contact:
            _crash(view, contact, frame, noise)
        if scene.sky == "rain":
            _rain(view, drops)
        view.draw.chord((-30, BONNET, WIDTH + 30, HEIGHT + 40), 180, 360, fill=bonnet)
        yield np.asarray(image)
