"""How a scene looks: shares of what is drawn, and the draws of room, lights and camera."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from worldmodel.errors import InputError
from worldmodel.world.forms import (
    SLIDING_CATEGORIES,
    TRAINING_SCREENS,
    UNSEEN_CATEGORIES,
    UNSEEN_SCREENS,
    Quaternion,
    Vector,
)
from worldmodel.world.scenes import (
    FPS,
    NUM_FRAMES,
    PLAIN,
    Camera,
    Colour,
    Light,
    Material,
    Room,
    Slab,
)

LOOK_AT = np.array([0.0, 0.0, 0.5])

# Colours far apart in hue, so that two of them can be told apart at 64 pixels and in any light.
PALETTE = np.array(
    [
        [0.86, 0.18, 0.16],  # red
        [0.15, 0.35, 0.85],  # blue
        [0.16, 0.65, 0.25],  # green
        [0.93, 0.70, 0.10],  # yellow
        [0.60, 0.22, 0.70],  # violet
        [0.10, 0.70, 0.72],  # turquoise
        [0.95, 0.50, 0.66],  # pink
        [0.52, 0.33, 0.18],  # brown
    ]
)
# Each at least 0.19 (in one of red, green, blue) from every colour of the palette.
UNSEEN_PALETTE = np.array(
    [
        [0.98, 0.42, 0.05],  # orange
        [0.62, 0.92, 0.12],  # lime
        [0.90, 0.08, 0.62],  # magenta
        [0.05, 0.10, 0.38],  # navy
        [0.96, 0.93, 0.86],  # ivory
        [0.10, 0.10, 0.10],  # black
        [0.45, 0.52, 0.05],  # olive
        [0.55, 0.72, 1.00],  # sky blue
    ]
)
COLOUR_SPREAD = 0.06


@dataclass(frozen=True)
class Mix:
    """Shares of what training scenes show, each between 0 and 1.

    Training scenes are halves of block kinds, or free scenes. From the defaults a network learns in
    ten minutes on two cores; with a larger budget, move the cameras more.
    """

    event: float = 0.7
    """Clips that show one world of a block kind; the others are free scenes."""
    open_event: float = 0.15
    """Of these, worlds of the kinds that happen in open view."""
    pan: float = 0.04
    """Cameras that turn to the side; those that no share names stand still."""
    dolly: float = 0.05
    """Cameras that come nearer or go away."""
    orbit: float = 0.07
    """Cameras that circle the scene."""
    handheld: float = 0.04
    """Cameras that sway as if held in a hand."""
    patterned_floor: float = 0.8
    """Floors with chequers, stripes or noise."""
    patterned_wall: float = 0.4
    """Back walls with the same."""
    patterned_body: float = 0.6
    """Bodies with two halves, bands, chequers or noise."""
    patterned_slab: float = 0.1
    """Screens, walls and platforms with stripes, chequers or noise."""
    shaped_screen: float = 0.3
    """Screens with an arch or a gable on top."""
    second_light: float = 0.15
    """Rooms with a second light, and so with second shadows."""
    exposure: float = 0.1
    """Clips whose brightness swings softly."""
    decoy: float = 0.5
    """Events with a second screen that hides nothing."""
    bystander: float = 0.3
    """Events with something that stands in the background."""
    animate: float = 0.25
    """Free scenes in which something with eyes moves by itself."""
    ramp: float = 0.12
    """Free scenes with a ramp."""
    steps: float = 0.08
    """Free scenes with a flight of steps."""
    stack: float = 0.12
    """Free scenes with boxes piled up."""
    container: float = 0.1
    """Free scenes with an open box that things fall into."""
    hopping: float = 0.2
    """Bodies of free scenes that hop across the view, of those that are sent across it."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 <= value <= 1:
                raise InputError(f"mix.{each.name} is a share from 0 to 1, got {value}")
        for names in (
            ("pan", "dolly", "orbit", "handheld"),
            ("ramp", "steps", "stack", "container"),
        ):
            total = sum(getattr(self, name) for name in names)
            if total > 1 + 1e-9:
                raise InputError(
                    f"the shares {', '.join('mix.' + name for name in names)} exclude each other; "
                    f"together they may be at most 1, got {total:.3g}"
                )


@dataclass(frozen=True)
class Style:
    """What scenes may be made of.

    Attributes:
        mix: the shares.
        palette: colours of things, RGB `(N, 3)`.
        passers: categories of bodies that events are about, with their shares.
        screens: forms of screens that are not plain.
        plain_screens: whether plain screens occur at all.
    """

    mix: Mix
    palette: np.ndarray
    passers: dict[str, float]
    screens: tuple[str, ...]
    plain_screens: bool = True

    def draw_category(self, rng: np.random.Generator, *, slides: bool | None = None) -> str:
        """A category; with `slides`, one that slides or one that rolls."""
        wanted = [name for name in self.passers if slides in (None, name in SLIDING_CATEGORIES)]
        shares = np.array([self.passers[name] for name in wanted])
        return str(rng.choice(wanted, p=shares / shares.sum()))

    def draw_colours(self, rng: np.random.Generator, count: int) -> list[Colour]:
        """So many different colours of the palette, each a little off."""
        chosen = self.palette[rng.permutation(len(self.palette))[:count]]
        spread = rng.uniform(-COLOUR_SPREAD, COLOUR_SPREAD, chosen.shape)
        return [as_vector(colour) for colour in np.clip(chosen + spread, 0, 1)]

    def draw_screen_form(self, rng: np.random.Generator) -> str:
        """The form of a screen."""
        shaped = rng.random() < self.mix.shaped_screen or not self.plain_screens
        return str(rng.choice(self.screens)) if shaped else "plain"

    def draw_body_material(self, rng: np.random.Generator, size: float) -> Material:
        """The material of a body of this size."""
        if rng.random() >= self.mix.patterned_body:
            return PLAIN
        pattern = str(rng.choice(["halves", "bands", "chequer", "noise"], p=[0.4, 0.3, 0.15, 0.15]))
        period = size * {"noise": 0.5, "chequer": 1.1}.get(pattern, 0.9)
        return Material(pattern, float(period), 1.0)

    def draw_slab_material(self, rng: np.random.Generator) -> Material:
        """The material of a screen, wall or platform."""
        if rng.random() >= self.mix.patterned_slab:
            return PLAIN
        pattern = str(rng.choice(["bands", "chequer", "noise"]))
        return Material(pattern, float(rng.uniform(0.15, 0.4)), float(rng.uniform(0.2, 0.5)))


def training_style(mix: Mix) -> Style:
    """What training, validation and test scenes are made of."""
    passers = {
        "sphere": 0.38,
        "box": 0.2,
        "cylinder": 0.15,
        "capsule": 0.09,
        "ellipsoid": 0.09,
        "cone": 0.09,
    }
    return Style(mix, PALETTE, passers, TRAINING_SCREENS[1:])


def unseen_style(mix: Mix) -> Style:
    """What blocks of the `ood` split are made of: no shape, colour or screen of training scenes."""
    passers = {category: 1 / len(UNSEEN_CATEGORIES) for category in UNSEEN_CATEGORIES}
    return Style(mix, UNSEEN_PALETTE, passers, UNSEEN_SCREENS, plain_screens=False)


def draw_room(rng: np.random.Generator, style: Style, light_x: float = 1.6) -> Room:
    """A room; the lights stand on the camera's side, so that shadows fall behind their screens.

    On plain floors and walls every edge belongs to a body or a screen, and random convolutions then
    tell depth as well as learned ones: hence many patterns.
    """
    mix = style.mix
    lights = [Light(_light_place(rng, light_x), 1.0)]
    if rng.random() < mix.second_light:
        share = float(rng.uniform(0.25, 0.45))
        lights = [
            Light(lights[0].position, 1 - share),
            Light(_light_place(rng, light_x), share),
        ]
    exposure = (0.0, 0.0, 0.0)
    if rng.random() < mix.exposure:
        exposure = as_vector(rng.uniform([0.03, 0.15, 0.0], [0.12, 0.6, 2 * np.pi]))
    return Room(
        floor_colour=as_vector(rng.uniform(0.4, 0.75, 3) * [1.0, 0.97, 0.92]),
        wall_colour=as_vector(rng.uniform(0.35, 0.75, 3)),
        floor=_room_material(rng, mix.patterned_floor, (0.8, 2.0), (0.15, 0.45)),
        wall=_room_material(rng, mix.patterned_wall, (0.5, 1.7), (0.1, 0.25)),
        lights=tuple(lights),
        exposure=exposure,
    )


def _light_place(rng: np.random.Generator, light_x: float) -> Vector:
    return (
        float(rng.uniform(-light_x, light_x)),
        float(rng.uniform(-3.4, -1.8)),
        float(rng.uniform(5.0, 7.0)),
    )


def _room_material(
    rng: np.random.Generator,
    share: float,
    period: tuple[float, float],
    contrast: tuple[float, float],
) -> Material:
    if rng.random() >= share:
        return PLAIN
    pattern = str(rng.choice(["chequer", "bands", "noise"], p=[0.6, 0.2, 0.2]))
    scale = 0.5 if pattern == "noise" else 1.0
    return Material(pattern, float(scale * rng.uniform(*period)), float(rng.uniform(*contrast)))


def draw_camera(rng: np.random.Generator, mix: Mix, num_frames: int = NUM_FRAMES) -> Camera:
    """A camera about 4 m away that stands, turns, travels, circles or sways.

    Most stand: what a moving one changes everywhere in the picture is easier to predict than what
    bodies change in a few places, and with half of them moving a two-core budget went there
    (visible position r2 0.65 to 0.73 instead of 0.84, depth no better than untrained).
    """
    shares = [mix.pan, mix.dolly, mix.orbit, mix.handheld]
    way = str(
        rng.choice(["pan", "dolly", "orbit", "handheld", "static"], p=[*shares, 1 - sum(shares)])
    )
    sweep = np.linspace(-0.5, 0.5, num_frames)
    azimuth = np.deg2rad(rng.uniform(-8, 8)) + np.zeros(num_frames)
    distance = rng.uniform(3.9, 4.3) + np.zeros(num_frames)
    height = rng.uniform(1.0, 1.6) + np.zeros(num_frames)
    target = np.tile(LOOK_AT, (num_frames, 1))
    if way == "pan":
        target[:, 0] += rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.5) * sweep
    elif way == "dolly":
        distance += rng.choice([-1.0, 1.0]) * rng.uniform(0.25, 0.6) * sweep
        height += rng.uniform(-0.2, 0.2) * sweep
    elif way == "orbit":
        azimuth += np.deg2rad(rng.choice([-1.0, 1.0]) * rng.uniform(5, 14)) * sweep
        height += rng.uniform(-0.3, 0.3) * sweep
    elif way == "handheld":
        azimuth += _sway(rng, num_frames, 0.006)
        height += _sway(rng, num_frames, 0.02)
        target += np.stack([_sway(rng, num_frames, 0.02) for _ in range(3)], 1)
    offset = [np.sin(azimuth) * distance, -np.cos(azimuth) * distance, height]
    return looking_at(LOOK_AT + np.stack(offset, 1), target)


def looking_at(places: np.ndarray, targets: np.ndarray) -> Camera:
    """A camera at these places `(T, 3)` that looks at those points `(T, 3)`, upright."""
    forward = targets - places
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return Camera(np.stack([right, np.cross(forward, right), forward, places], 2))


def _sway(rng: np.random.Generator, num_frames: int, amplitude: float) -> np.ndarray:
    """Three slow waves of a hand that is not quite still, `(T,)`."""
    seconds = np.arange(num_frames)[:, None] / FPS
    hertz, phase = rng.uniform(0.3, 1.3, 3), rng.uniform(0, 2 * np.pi, 3)
    return amplitude * np.sin(2 * np.pi * hertz * seconds + phase).sum(1)


def away_from(rng: np.random.Generator, slab: Slab) -> Vector:
    """Where a slab that stands goes to be out of sight: under the floor or aside."""
    x, y, z = slab.stand
    if rng.random() < 0.7:
        return (x, y, -slab.half[2] - slab.crest - 0.05)
    side = float(rng.choice([-1.0, 1.0]))
    return (side * (2.3 + slab.half[0]), y, z)


def as_vector(values: np.ndarray) -> Vector:
    """Three plain numbers, which compare and print as such."""
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def turned_at_random(rng: np.random.Generator) -> Quaternion:
    """A quaternion drawn evenly from all rotations."""
    quaternion = rng.normal(size=4)
    w, x, y, z = (float(part) for part in quaternion / np.linalg.norm(quaternion))
    return (w, x, y, z)


def turned_about_y(quaternion: Quaternion, radians: float) -> Quaternion:
    """The same, then turned about the world's y axis, as things that roll along x are."""
    w, x, y, z = quaternion
    c, s = float(np.cos(radians / 2)), float(np.sin(radians / 2))
    return (c * w - s * y, c * x + s * z, c * y + s * w, c * z - s * x)
