"""Compiled ray tracing of whole clips: plain scalar code for floor, wall, solids, lights, patterns.

Solids are rasterised: each is met only by the rays through the rectangle that holds its outline,
and a depth buffer keeps the nearest. Every pixel is a function of its own ray, of what this meets,
and of what lies between there and the lights. Nothing else bears on its value, down to the last
bit: bounds in the image (`box`) and in front of a light (`mark`) belong to one solid alone, sums
run over lights and over the four rays of one pixel only, and of two equal depths the first in the
list wins. The compiler may neither reorder nor fuse operations (no `fastmath`).

While the camera stands still, what never moves is drawn once. A frame then draws again only what a
moving solid's rectangle touches or what may lie in its shadow, by the same functions, so that the
bits are those of drawing everything.

All kernels stand in this one file: numba keeps what it compiled beside the file, and a caller would
not notice that something it calls has changed in another one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from worldmodel.world.forms import PRIMITIVES
from worldmodel.world.scenes import PATTERNS

SKY = (0.70, 0.80, 0.90)
AMBIENT = 0.38
FAR_METRES = 100.0
# The back wall is the plane y = 3.1 up to this height; nothing is seen behind it.
WALL_Y = 3.1
WALL_TOP = 4.5
# Nearer to a camera or light than this, a solid's outline has no bounds, metres.
NEAR = 0.05
# A surface shadows a point if it is met this much (relative) before it: 1 cm at 6 m.
SHADOW_SLACK = 2e-3
# Four rays per pixel on a rotated grid, in pixels from its centre.
SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])
# Change of the normal (sum of its three parts) from which a pixel lies on a crease.
CREASE = 0.5
# Even the sharpest edge of a pattern is this soft, as a share of a quarter of its period.
SOFTNESS = 0.05

SPHERE, BOX, CYLINDER, CAPSULE, ELLIPSOID = range(len(PRIMITIVES))
PLAIN, HALVES, BANDS, CHEQUER, NOISE = range(len(PATTERNS))
# What a ray meets: one of these, or `FIRST_SOLID` + the solid's place in the list.
SKY_KIND, FLOOR_KIND, WALL_KIND, FIRST_SOLID = range(4)

# Directions from a light fall into a grid of cells, over tangents from -SPAN to SPAN from its axis;
# two more cells stand for points that face away from it and for points behind its plane.
CELLS, SPAN = 64, 1.5
NO_SHADOWS, ALL_SHADOWS = CELLS * CELLS, CELLS * CELLS + 1
# Numbers of a pixel's cells, one per light, share one integer.
CELL_BITS, MAX_LIGHTS = 13, 4

SOLID = np.dtype(
    [
        ("shape", np.int64),  # place in `forms.PRIMITIVES`
        ("owner", np.int64),  # bodies come first, then slabs
        ("half", np.float64, 3),
        ("offset", np.float64, 3),  # in the owner's axes
        ("tilt", np.float64, (3, 3)),  # own axes to the owner's
        # The rest holds for one frame; `set_pose` and `set_view` write it.
        ("place", np.float64, 3),
        ("turn", np.float64, (3, 3)),  # own axes to the world's
        ("eye", np.float64, 3),  # the camera, in own axes
        ("rays", np.float64, (3, 3)),  # the camera's axes to own axes
        ("lamps", np.float64, (MAX_LIGHTS, 3)),  # the lights, in own axes
        ("box", np.int64, 4),  # pixels left, top, right, bottom; all that its outline touches
    ],
    align=True,
)
SURFACE = np.dtype(
    [
        ("pattern", np.int64),  # place in `scenes.PATTERNS`
        ("across", np.int64),  # axis that crosses the bands: 0 or 2
        ("per_metre", np.float64),  # 1 / period
        ("first", np.float64, 3),  # RGB in 0..1
        ("second", np.float64, 3),
    ],
    align=True,
)
LIGHT = np.dtype(
    [
        ("place", np.float64, 3),
        ("share", np.float64),
        ("axes", np.float64, (3, 3)),  # columns right, down, forward
    ],
    align=True,
)

Triple = tuple[float, float, float]
# One item of an array of one of the types above.
Record = Any


class Layer(NamedTuple):
    """What the pixels of one frame show.

    Attributes:
        depth: `(H, W)`, infinite where nothing is met.
        kind: `(H, W)`, what the ray through the pixel's centre meets.
        lit: `(H, W)`, one bit per light that reaches this point.
        normal: `(H, W, 3)`, in the world's axes.
        colour: `(H, W, 3)`, of this point, before exposure and gamma.
        cells: `(H, W, 5)`, where the pixel's rays lie in the lights' grids: the centre, and on an
            edge the four others.
        edge: `(H, W)`, whether the pixel is the mean of four other rays.
        shown: `(H, 3 W)`, the pixel's colour.
    """

    depth: np.ndarray
    kind: np.ndarray
    lit: np.ndarray
    normal: np.ndarray
    colour: np.ndarray
    cells: np.ndarray
    edge: np.ndarray
    shown: np.ndarray


class World(NamedTuple):
    """What the rays of one frame can meet.

    Attributes:
        camera: `(3, 4)`, to world.
        focal: pixels.
        solids: of dtype `SOLID`; those of one owner follow each other.
        surfaces: of dtype `SURFACE`, by kind.
        lights: of dtype `LIGHT`.
        shades: `(lights, cells)`, one bit per owner whose solids may cast a shadow there.
    """

    camera: np.ndarray
    focal: float
    solids: np.ndarray
    surfaces: np.ndarray
    lights: np.ndarray
    shades: np.ndarray


class Output(NamedTuple):
    """What comes out.

    Attributes:
        ids: uint8 `(T, H, W)`.
        depth: float32 `(T, H, W)`, metres, 0 where nothing is met.
        visible: `(T, owners)`, in how many pixels each is seen.
        amodal: `(T, owners)`, in how many it would be seen if it were alone.
        frames: uint8 `(T, H, 3 W)`; T is 0 if no frames are wanted.
    """

    ids: np.ndarray
    depth: np.ndarray
    visible: np.ndarray
    amodal: np.ndarray
    frames: np.ndarray


class Scratch(NamedTuple):
    """Room for notes.

    Attributes:
        stamps: `(H, W)`, the last call of `find_solids` with something near a pixel.
        met_by: `(H, W)`, the last owner that a pixel met, in which call.
        fresh: `(H, W)`, whether a pixel was painted for this frame, true at first.
        changed: `(H, W)`, whether it may show something else than the still layer.
        everywhere: `(H, W)`, true.
        nearby: `(solids,)`, those near a pixel.
        amodal: `(owners,)`, how many pixels each meets.
        still_shades, shades: see `World`, of what does not move and of all.
    """

    stamps: np.ndarray
    met_by: np.ndarray
    fresh: np.ndarray
    changed: np.ndarray
    everywhere: np.ndarray
    nearby: np.ndarray
    amodal: np.ndarray
    still_shades: np.ndarray
    shades: np.ndarray


def trace(
    cameras: np.ndarray,
    focal: float,
    poses: np.ndarray,
    solids: np.ndarray,
    surfaces: np.ndarray,
    lights: np.ndarray,
    gains: np.ndarray,
    ids_of: np.ndarray,
    frames: np.ndarray,
    size: int,
    reuse: bool = True,
) -> Output:
    """Trace a clip of T frames.

    Args:
        cameras: `(T, 3, 4)`, camera to world.
        focal: pixels.
        poses: `(T, owners, 7)`, position and quaternion.
        solids: of dtype `SOLID`, those of one owner after each other; changed.
        surfaces: of dtype `SURFACE`, by kind.
        lights: of dtype `LIGHT`; none, if no frames are wanted.
        gains: `(T,)`, exposure of each frame.
        ids_of: `(owners,)`, uint8.
        frames: receives uint8 `(T, H, W, 3)`; none are made if it is empty.
        size: height and width in pixels.
        reuse: draw what stands still only once, if the camera does too.
    """
    num_frames, num_owners = poses.shape[:2]
    # In one layout, since each would be compiled for itself.
    cameras = np.ascontiguousarray(cameras, np.float64)
    reuse = reuse and bool((cameras == cameras[0]).all())
    moving = (poses != poses[0]).any((0, 2)) & reuse
    movers = int(moving @ (1 << np.arange(num_owners)))
    pixels, still_shades = (size, size), np.zeros((len(lights), ALL_SHADOWS + 1), np.int32)
    still_shades[:, ALL_SHADOWS] = -1
    output = Output(
        np.empty((num_frames, *pixels), np.uint8),
        np.empty((num_frames, *pixels), np.float32),
        np.zeros((num_frames, num_owners), np.int64),
        np.zeros((num_frames, num_owners), np.int64),
        frames.reshape(len(frames), size, 3 * size),
    )
    scratch = Scratch(
        np.zeros(pixels, np.int64),
        np.zeros(pixels, np.int64),
        np.ones(pixels, np.bool_),
        np.zeros(pixels, np.bool_),
        np.ones(pixels, np.bool_),
        np.zeros(len(solids), np.int64),
        np.zeros(num_owners, np.int64),
        still_shades,
        still_shades.copy(),
    )
    trace_frames(
        cameras,
        poses,
        movers,
        World(cameras[0], focal, solids, surfaces, lights, still_shades),
        gains,
        ids_of,
        reuse,
        new_layer(size),
        new_layer(size),
        scratch,
        output,
    )
    return output


def new_layer(size: int) -> Layer:
    """A layer of `size` by `size` pixels, not yet drawn."""
    return Layer(
        np.empty((size, size), np.float64),
        np.empty((size, size), np.int32),
        np.empty((size, size), np.int32),
        np.empty((size, size, 3), np.float32),
        np.empty((size, size, 3), np.float32),
        np.empty((size, size, 5), np.int64),
        np.empty((size, size), np.bool_),
        np.empty((size, 3 * size), np.float32),
    )


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that makes no arrays.

    It is unwrapped first, since our tests wrap every function to check its types. Without `_nrt`,
    which numba's own library uses for the same end, references to arrays are not counted: calls
    for single pixels would spend more than half of their time on that.
    """
    options = {"nogil": True, "error_model": "numpy", "_nrt": False}
    plain = inspect.unwrap(function)
    try:
        return njit(cache=True, **options)(plain)  # type: ignore[call-overload]
    except RuntimeError:
        # Neither this folder nor the user's own can be written to: compiled anew in each process.
        return njit(**options)(plain)  # type: ignore[call-overload]


@compiled
def dot(a: Triple, b: Triple) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def along(start: Triple, step: Triple, count: float) -> Triple:
    """So many steps from a start."""
    return start[0] + count * step[0], start[1] + count * step[1], start[2] + count * step[2]


@compiled
def column(matrix: np.ndarray, number: int) -> Triple:
    """One column of a matrix of three rows."""
    return matrix[0, number], matrix[1, number], matrix[2, number]


@compiled
def turned(matrix: np.ndarray, vector: Triple) -> Triple:
    """The first three columns of a matrix times a vector."""
    return (
        matrix[0, 0] * vector[0] + matrix[0, 1] * vector[1] + matrix[0, 2] * vector[2],
        matrix[1, 0] * vector[0] + matrix[1, 1] * vector[1] + matrix[1, 2] * vector[2],
        matrix[2, 0] * vector[0] + matrix[2, 1] * vector[1] + matrix[2, 2] * vector[2],
    )


@compiled
def turned_back(matrix: np.ndarray, vector: Triple) -> Triple:
    """The same with the matrix's transpose."""
    return (
        matrix[0, 0] * vector[0] + matrix[1, 0] * vector[1] + matrix[2, 0] * vector[2],
        matrix[0, 1] * vector[0] + matrix[1, 1] * vector[1] + matrix[2, 1] * vector[2],
        matrix[0, 2] * vector[0] + matrix[1, 2] * vector[1] + matrix[2, 2] * vector[2],
    )


# Rays and primitives, all in the primitive's own axes.


@compiled
def meet(solid: Record, start: Triple, ray: Triple) -> float:
    """How far a ray goes until it enters a solid, in its own lengths; -1 if it never does."""
    a, b, c = solid.half[0], solid.half[1], solid.half[2]
    if solid.shape == BOX:
        enter, leave = -np.inf, np.inf
        for axis in range(3):
            near, far = between(start[axis], ray[axis], solid.half[axis])
            enter, leave = max(enter, near), min(leave, far)
        return enter if 0.0 < enter <= leave else -1.0
    if solid.shape == SPHERE or solid.shape == ELLIPSOID:
        return meet_ball(
            (start[0] / a, start[1] / b, start[2] / c), (ray[0] / a, ray[1] / b, ray[2] / c), 1.0
        )
    # Cylinder and capsule: first the cylinder without ends.
    square = ray[0] * ray[0] + ray[1] * ray[1]
    middle = start[0] * ray[0] + start[1] * ray[1]
    outside = start[0] * start[0] + start[1] * start[1] - a * a
    root = middle * middle - square * outside
    if root < 0.0:
        return -1.0
    root = math.sqrt(root)
    if solid.shape == CYLINDER:
        enter, leave = between(start[2], ray[2], c)
        if square > 0.0:
            enter = max(enter, (-middle - root) / square)
            leave = min(leave, (-middle + root) / square)
        elif outside > 0.0:
            return -1.0
        return enter if 0.0 < enter <= leave else -1.0
    height = -ray[2]
    if square > 1e-12 * ray[2] * ray[2]:
        enter = (-middle - root) / square
        height = start[2] + enter * ray[2]
        if abs(height) <= c - a:
            return enter if enter > 0.0 else -1.0
    # A ray that enters the endless cylinder beyond one end can only enter through that end's ball.
    return meet_ball((start[0], start[1], start[2] - math.copysign(c - a, height)), ray, a)


@compiled
def between(start: float, step: float, half: float) -> tuple[float, float]:
    """After how many steps a point on a line comes within, and leaves, half to each side of 0."""
    if step == 0.0:
        return (-np.inf, np.inf) if abs(start) <= half else (np.inf, -np.inf)
    first, second = (-half - start) / step, (half - start) / step
    return min(first, second), max(first, second)


@compiled
def meet_ball(start: Triple, ray: Triple, radius: float) -> float:
    """Like `meet`, of a ball around the origin."""
    square, middle = dot(ray, ray), dot(start, ray)
    root = middle * middle - square * (dot(start, start) - radius * radius)
    if root < 0.0:
        return -1.0
    enter = (-middle - math.sqrt(root)) / square
    return enter if enter > 0.0 else -1.0


@compiled
def normal_at(solid: Record, point: Triple) -> Triple:
    """Unit normal of a solid at a point of its surface."""
    a, b, c = solid.half[0], solid.half[1], solid.half[2]
    x, y, z = point
    if solid.shape == BOX:
        far_x, far_y, far_z = abs(x) - a, abs(y) - b, abs(z) - c
        if far_x >= far_y and far_x >= far_z:
            return math.copysign(1.0, x), 0.0, 0.0
        if far_y >= far_z:
            return 0.0, math.copysign(1.0, y), 0.0
        return 0.0, 0.0, math.copysign(1.0, z)
    if solid.shape == CYLINDER:
        if abs(z) - c > math.sqrt(x * x + y * y) - a:
            return 0.0, 0.0, math.copysign(1.0, z)
        z = 0.0
    elif solid.shape == CAPSULE:
        z -= max(a - c, min(c - a, z))
    elif solid.shape == ELLIPSOID:
        x, y, z = x / (a * a), y / (b * b), z / (c * c)
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


# Where solids are, and bounds of what a camera or a light sees of them.


@compiled
def set_pose(solid: Record, pose: np.ndarray, lights: np.ndarray) -> None:
    """Put a solid where its owner's pose `(7,)`, position and quaternion, takes it."""
    w, x, y, z = pose[3], pose[4], pose[5], pose[6]
    scale = 2.0 / (w * w + x * x + y * y + z * z)
    rows = (
        (1.0 - scale * (y * y + z * z), scale * (x * y - w * z), scale * (x * z + w * y)),
        (scale * (x * y + w * z), 1.0 - scale * (x * x + z * z), scale * (y * z - w * x)),
        (scale * (x * z - w * y), scale * (y * z + w * x), 1.0 - scale * (x * x + y * y)),
    )
    for axis in range(3):
        solid.place[axis] = pose[axis] + dot(rows[axis], as_triple(solid.offset))
        for own in range(3):
            solid.turn[axis, own] = dot(rows[axis], column(solid.tilt, own))
    place = as_triple(solid.place)
    for number in range(len(lights)):
        lamp = turned_back(solid.turn, along(as_triple(lights[number].place), place, -1.0))
        for own in range(3):
            solid.lamps[number, own] = lamp[own]


@compiled
def as_triple(vector: np.ndarray) -> Triple:
    """A vector as plain numbers."""
    return vector[0], vector[1], vector[2]


@compiled
def set_view(solid: Record, camera: np.ndarray, focal: float, size: int) -> None:
    """Note how the camera `(3, 4)` sees a solid that has been posed."""
    eye = turned_back(solid.turn, along(column(camera, 3), as_triple(solid.place), -1.0))
    for own in range(3):
        solid.eye[own] = eye[own]
    for axis in range(3):
        ray = turned_back(solid.turn, column(camera, axis))
        for own in range(3):
            solid.rays[own, axis] = ray[own]
    x0, y0, x1, y1 = outline(solid, column(camera, 3), camera)
    edge = size / 2.0 / focal
    if x0 > edge or y0 > edge or x1 < -edge or y1 < -edge:
        x0, y0, x1, y1 = 1.0, 1.0, -1.0, -1.0
    solid.box[0], solid.box[1] = cell_of(x0, focal, size), cell_of(y0, focal, size)
    solid.box[2], solid.box[3] = cell_of(x1, focal, size), cell_of(y1, focal, size)


@compiled
def cell_of(tangent: float, scale: float, count: int) -> int:
    """Which of so many cells of a grid around 0 a tangent falls in; the last one if beyond it."""
    return int(max(0.0, min(count - 1.0, tangent * scale + count / 2.0)))


@compiled
def outline(solid: Record, place: Triple, axes: np.ndarray) -> tuple[float, float, float, float]:
    """Bounds of a solid as seen from a place: tangents x0, y0, x1, y1 along the axes' columns.

    They reach from 1e9 to -1e9 if it lies behind, and from -1e9 to 1e9 if it is too near to tell.
    """
    offset = along(as_triple(solid.place), place, -1.0)
    x, across_x = dot(column(axes, 0), offset), extents(solid, column(axes, 0))
    y, across_y = dot(column(axes, 1), offset), extents(solid, column(axes, 1))
    z, across_z = dot(column(axes, 2), offset), extents(solid, column(axes, 2))
    reach = abs(across_z[0]) + abs(across_z[1]) + abs(across_z[2])
    x0, y0, x1, y1 = 1e9, 1e9, -1e9, -1e9
    if z + reach < NEAR:
        return x0, y0, x1, y1
    if z - reach < NEAR:
        return x1, y1, x0, y0
    if solid.shape == BOX:
        for corner in range(8):
            p, q, r = 2.0 * (corner & 1) - 1.0, 1.0 * (corner & 2) - 1.0, 0.5 * (corner & 4) - 1.0
            depth = z + dot((p, q, r), across_z)
            tangent_x = (x + dot((p, q, r), across_x)) / depth
            tangent_y = (y + dot((p, q, r), across_y)) / depth
            x0, x1 = min(x0, tangent_x), max(x1, tangent_x)
            y0, y1 = min(y0, tangent_y), max(y1, tangent_y)
    else:
        # The hull of two ellipsoids: a cylinder's discs, a capsule's balls, or twice the same.
        a, c = solid.half[0], solid.half[2]
        round_x, round_y, round_z, end = across_x, across_y, across_z, 0.0
        if solid.shape == CYLINDER:
            end = 1.0
            round_x = (across_x[0], across_x[1], 0.0)
            round_y = (across_y[0], across_y[1], 0.0)
            round_z = (across_z[0], across_z[1], 0.0)
        elif solid.shape == CAPSULE:
            end = 1.0 - a / c
            round_x, round_y, round_z = (a, 0.0, 0.0), (0.0, a, 0.0), (0.0, 0.0, a)
        for way in (-end, end):
            depth = z + way * across_z[2]
            low, high = ball_bounds(x + way * across_x[2], depth, round_x, round_z)
            x0, x1 = min(x0, low), max(x1, high)
            low, high = ball_bounds(y + way * across_y[2], depth, round_y, round_z)
            y0, y1 = min(y0, low), max(y1, high)
    # More than rounding errors, less than a thousandth of a pixel.
    return x0 - 1e-7, y0 - 1e-7, x1 + 1e-7, y1 + 1e-7


@compiled
def extents(solid: Record, axis: Triple) -> Triple:
    """The parts of a solid's three half-extents along an axis, metres."""
    own = turned_back(solid.turn, axis)
    return own[0] * solid.half[0], own[1] * solid.half[1], own[2] * solid.half[2]


@compiled
def ball_bounds(x: float, z: float, across_x: Triple, across_z: Triple) -> tuple[float, float]:
    """Least and greatest x / z on an ellipsoid around (x, z) with these half-extents along both.

    They are the roots t of (x - t z)^2 = |across_x - t across_z|^2: there, a plane through the
    origin touches the ellipsoid.
    """
    square = z * z - dot(across_z, across_z)
    middle = x * z - dot(across_x, across_z)
    root = middle * middle - square * (x * x - dot(across_x, across_x))
    root = math.sqrt(max(0.0, root))
    return (middle - root) / square, (middle + root) / square


# Shadows.


@compiled
def mark(shades: np.ndarray, number: int, solid: Record, lights: np.ndarray) -> None:
    """Set the owner's bit in all cells of a light's grid in which the solid may cast a shadow."""
    light = lights[number]
    x0, y0, x1, y1 = outline(solid, as_triple(light.place), light.axes)
    if x0 > x1:
        return
    scale = CELLS / (2.0 * SPAN)
    left, right = cell_of(x0, scale, CELLS), cell_of(x1, scale, CELLS)
    for row in range(cell_of(y0, scale, CELLS), cell_of(y1, scale, CELLS) + 1):
        for cell in range(row * CELLS + left, row * CELLS + right + 1):
            shades[number, cell] |= 1 << solid.owner


@compiled
def cell_at(light: Record, ray: Triple) -> int:
    """In which cell of a light's grid a ray from it lies."""
    x, y, z = turned_back(light.axes, ray)
    if z < NEAR:
        return ALL_SHADOWS
    scale = CELLS / (2.0 * SPAN)
    return cell_of(y / z, scale, CELLS) * CELLS + cell_of(x / z, scale, CELLS)


@compiled
def shadowed(number: int, ray: Triple, own: int, owners: int, solids: np.ndarray) -> bool:
    """Whether a solid stands between a light and a point.

    Args:
        number: of the light.
        ray: from the light to the point.
        own: the solid that the point is on; convex, it casts no shadow on its sides that face the
            light.
        owners: bits of those whose solids may be in the way.
        solids: all.
    """
    square = dot(ray, ray)
    for place in range(len(solids)):
        solid = solids[place]
        if place == own or not (owners >> solid.owner) & 1:
            continue
        lamp = as_triple(solid.lamps[number])
        own_ray = turned_back(solid.turn, ray)
        # A ball around the solid, before the solid itself.
        middle = dot(lamp, own_ray)
        far = dot(lamp, lamp) - dot(as_triple(solid.half), as_triple(solid.half))
        might = middle < 0.0 and far * square <= middle * middle
        if might and 0.0 < meet(solid, lamp, own_ray) < 1.0 - SHADOW_SLACK:
            return True
    return False


# Patterns.


@compiled
def share_of_second(surface: Record, point: Triple, cover: Triple) -> float:
    """Share of a pattern's second colour; a pixel covers so much to each side of the point."""
    scale = surface.per_metre
    x, y, z = point[0] * scale, point[1] * scale, point[2] * scale
    cover_x, cover_y, cover_z = cover[0] * scale, cover[1] * scale, cover[2] * scale
    if surface.pattern == HALVES:
        return 0.5 + 0.5 * soft_sign(x, max(cover_x, 0.25 * SOFTNESS))
    if surface.pattern == BANDS:
        wave = stripes(x, cover_x) if surface.across == 0 else stripes(z, cover_z)
        return 0.5 + 0.5 * wave
    if surface.pattern == CHEQUER:
        return 0.5 + 0.5 * stripes(x, cover_x) * stripes(y, cover_y) * stripes(z, cover_z)
    return 0.5 + (noise(x, y, z) - 0.5) * fade(4.0 * max(cover_x, cover_y, cover_z))


@compiled
def soft_sign(value: float, width: float) -> float:
    """The sign of a value, linear up to a width, so that patterns need no more rays than others."""
    return max(-1.0, min(1.0, value / width))


@compiled
def fade(half_periods: float) -> float:
    """How much is left of a pattern of which a pixel covers so many half periods: all, up to 1."""
    return max(0.0, min(1.0, 2.0 - half_periods))


@compiled
def stripes(position: float, cover: float) -> float:
    """Square wave of period 1, -1 around whole numbers; a pixel covers so much to each side."""
    triangle = abs(position - math.floor(position + 0.5)) * 4.0 - 1.0
    width = max(4.0 * cover, SOFTNESS)
    return soft_sign(triangle, width) * fade(width)


@compiled
def noise(x: float, y: float, z: float) -> float:
    """Smooth noise, 0 to 1: random at whole numbers, and eased from each to the next."""
    column, row, plane = math.floor(x), math.floor(y), math.floor(z)
    u, v, w = ease(x - column), ease(y - row), ease(z - plane)
    value = noise_in_plane(int(column), int(row), int(plane), u, v)
    if w > 0.0:
        value += w * (noise_in_plane(int(column), int(row), int(plane) + 1, u, v) - value)
    # Most values lie around one half: spread them out.
    return max(0.0, min(1.0, 2.0 * value - 0.5))


@compiled
def ease(share: float) -> float:
    """From 0 to 1 as the share does, but level at both ends."""
    return share * share * (3.0 - 2.0 * share)


@compiled
def noise_in_plane(column: int, row: int, plane: int, u: float, v: float) -> float:
    """Between four neighbours in one plane of the lattice."""
    near, far = grain(column, row, plane), grain(column, row + 1, plane)
    near += u * (grain(column + 1, row, plane) - near)
    far += u * (grain(column + 1, row + 1, plane) - far)
    return near + v * (far - near)


@compiled
def grain(column: int, row: int, plane: int) -> float:
    """Random value, 0 to 1, at a point of the lattice; integers wrap around."""
    mixed = column * 73856093 ^ row * 19349663 ^ plane * 83492791
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    mixed = (mixed ^ (mixed >> 13)) * 3266489917
    return ((mixed ^ (mixed >> 16)) & 0xFFFF) / 65535.0


# Single rays.


@compiled
def backdrop(camera: np.ndarray, pixel: Triple) -> tuple[float, int]:
    """Depth and kind of what a ray meets of the room itself."""
    _, ray_y, ray_z = turned(camera, pixel)
    depth, kind = np.inf, SKY_KIND
    if ray_z < 0.0:
        floor = -camera[2, 3] / ray_z
        if 0.0 < floor < FAR_METRES:
            depth, kind = floor, FLOOR_KIND
    if ray_y > 0.0:
        wall = (WALL_Y - camera[1, 3]) / ray_y
        if 0.0 < wall < min(depth, FAR_METRES) and camera[2, 3] + wall * ray_z < WALL_TOP:
            depth, kind = wall, WALL_KIND
    return depth, kind


@compiled
def shade(
    world: World, kind: int, depth: float, pixel: Triple, cover: float
) -> tuple[Triple, Triple, int, int]:
    """What the thing that a ray meets looks like there.

    Args:
        world: all there is.
        kind: what the ray meets.
        depth: where.
        pixel: the ray's tangents in the camera's axes, and 1.
        cover: tangents that its pixel covers to each side.

    Returns:
        Colour, normal, one bit per light that reaches the point, and the numbers of its cells.
    """
    camera, solids, lights = world.camera, world.solids, world.lights
    surface = world.surfaces[kind]
    first, second = as_triple(surface.first), as_triple(surface.second)
    if kind == SKY_KIND:
        return first, (0.0, 0.0, 0.0), 0, 0
    point = along(column(camera, 3), turned(camera, pixel), depth)
    share = 0.0
    if kind == FLOOR_KIND:
        normal = (0.0, 0.0, 1.0)
        if surface.pattern != PLAIN:
            right, down = footprint(camera, turned(camera, pixel), normal, depth * cover)
            x, y, _ = extent(right, down)
            share = share_of_second(surface, (point[0], point[1], 0.0), (x, y, 0.0))
    elif kind == WALL_KIND:
        normal = (0.0, -1.0, 0.0)
        if surface.pattern != PLAIN:
            right, down = footprint(camera, turned(camera, pixel), normal, depth * cover)
            x, _, z = extent(right, down)
            share = share_of_second(surface, (point[0], point[2], 0.0), (x, z, 0.0))
    else:
        solid = solids[kind - FIRST_SOLID]
        ray = turned(solid.rays, pixel)
        own_point = along(as_triple(solid.eye), ray, depth)
        own_normal = normal_at(solid, own_point)
        normal = turned(solid.turn, own_normal)
        if surface.pattern != PLAIN:
            right, down = footprint(solid.rays, ray, own_normal, depth * cover)
            share = share_of_second(
                surface,
                along(as_triple(solid.offset), turned(solid.tilt, own_point), 1.0),
                extent(turned(solid.tilt, right), turned(solid.tilt, down)),
            )
    direct, lit, cells = 0.0, 0, 0
    for number in range(len(lights)):
        ray = along(point, as_triple(lights[number].place), -1.0)
        facing = -dot(normal, ray)
        cell = NO_SHADOWS
        if facing > 0.0:
            cell = cell_at(lights[number], ray)
            owners = world.shades[number, cell]
            if owners == 0 or not shadowed(number, ray, kind - FIRST_SOLID, owners, solids):
                lit |= 1 << number
                direct += lights[number].share * facing / math.sqrt(dot(ray, ray))
        cells |= cell << (CELL_BITS * number)
    bright = (AMBIENT + (1.0 - AMBIENT) * direct) * (0.92 + 0.08 * normal[2])
    other = along(second, first, -1.0)
    colour = along(first, other, share)
    return (colour[0] * bright, colour[1] * bright, colour[2] * bright), normal, lit, cells


@compiled
def footprint(axes: np.ndarray, ray: Triple, normal: Triple, reach: float) -> tuple[Triple, Triple]:
    """How far a ray's point moves on a plane as the ray moves by `reach`, to the right and down."""
    right, down = column(axes, 0), column(axes, 1)
    slope = reach / dot(ray, normal)
    zero = (0.0, 0.0, 0.0)
    return (
        along(along(zero, right, reach), ray, -slope * dot(right, normal)),
        along(along(zero, down, reach), ray, -slope * dot(down, normal)),
    )


@compiled
def extent(right: Triple, down: Triple) -> Triple:
    """How far two moves go along each axis, taken together."""
    return abs(right[0]) + abs(down[0]), abs(right[1]) + abs(down[1]), abs(right[2]) + abs(down[2])


# Layers of pixels.


@compiled
def pixel_at(row: int, column: int, focal: float, size: int) -> Triple:
    """Tangents of the ray through a pixel's centre, and 1."""
    return (column + 0.5 - size / 2.0) / focal, (row + 0.5 - size / 2.0) / focal, 1.0


@compiled
def settle(world: World, chosen: int, poses: np.ndarray, size: int) -> None:
    """Put the solids of chosen owners (bits) where they are, and note their shadows."""
    for place in range(len(world.solids)):
        solid = world.solids[place]
        if (chosen >> solid.owner) & 1:
            set_pose(solid, poses[solid.owner], world.lights)
            set_view(solid, world.camera, world.focal, size)
            for number in range(len(world.shades)):
                mark(world.shades, number, solid, world.lights)


@compiled
def find_backdrop(layer: Layer, world: World) -> None:
    """Write depth and kind of the room itself."""
    size = len(layer.depth)
    for row in range(size):
        for column in range(size):
            pixel = pixel_at(row, column, world.focal, size)
            depth, kind = backdrop(world.camera, pixel)
            layer.depth[row, column], layer.kind[row, column] = depth, kind


@compiled
def find_solids(layer: Layer, world: World, chosen: int, stamp: int, scratch: Scratch) -> None:
    """Write depth and kind of solids where they are nearer than what is there.

    Args:
        layer: to write to.
        world: all there is.
        chosen: bits of the owners.
        stamp: a number that no earlier call has used.
        scratch: `stamps` receives the stamp in all pixels whose square touches a solid's bounds,
            `amodal` how many pixels' centres each of the owners meets.
    """
    size = len(layer.depth)
    for place in range(len(world.solids)):
        solid = world.solids[place]
        owner = solid.owner
        if not (chosen >> owner) & 1:
            continue
        if place == 0 or world.solids[place - 1].owner != owner:
            scratch.amodal[owner] = 0
        mine = stamp * len(scratch.amodal) + owner
        start = as_triple(solid.eye)
        for row in range(solid.box[1], solid.box[3] + 1):
            for column in range(solid.box[0], solid.box[2] + 1):
                scratch.stamps[row, column] = stamp
                pixel = pixel_at(row, column, world.focal, size)
                met = meet(solid, start, turned(solid.rays, pixel))
                if met < 0.0:
                    continue
                if scratch.met_by[row, column] != mine:
                    scratch.met_by[row, column] = mine
                    scratch.amodal[owner] += 1
                kind = FIRST_SOLID + place
                before = layer.depth[row, column]
                if met < before or (met == before and kind < layer.kind[row, column]):
                    layer.depth[row, column], layer.kind[row, column] = met, kind


@compiled
def paint(layer: Layer, world: World, chosen: np.ndarray) -> None:
    """Shade the centres of chosen pixels `(H, W)` whose depth and kind are known."""
    size = len(layer.depth)
    for row in range(size):
        for column in range(size):
            if not chosen[row, column]:
                continue
            colour, normal, lit, cells = shade(
                world,
                np.int64(layer.kind[row, column]),
                layer.depth[row, column],
                pixel_at(row, column, world.focal, size),
                0.5 / world.focal,
            )
            for axis in range(3):
                layer.colour[row, column, axis] = colour[axis]
                layer.normal[row, column, axis] = normal[axis]
            layer.lit[row, column], layer.cells[row, column, 0] = lit, cells


@compiled
def show(layer: Layer, world: World, chosen: np.ndarray, nearby: np.ndarray) -> None:
    """Show pixels that are painted, as their neighbours are; on an edge, the mean of four rays.

    Args:
        layer: to write to.
        world: all there is.
        chosen: `(H, W)`, which pixels.
        nearby: room to note solids in.
    """
    size = len(layer.depth)
    for row in range(size):
        for column in range(size):
            if not chosen[row, column]:
                continue
            layer.edge[row, column] = on_edge(layer.kind, layer.lit, layer.normal, row, column)
            if not layer.edge[row, column]:
                for channel in range(3):
                    layer.shown[row, 3 * column + channel] = layer.colour[row, column, channel]
                continue
            found = 0
            for place in range(len(world.solids)):
                box = world.solids[place].box
                if box[0] <= column <= box[2] and box[1] <= row <= box[3]:
                    nearby[found] = place
                    found += 1
            total = (0.0, 0.0, 0.0)
            centre = pixel_at(row, column, world.focal, size)
            for number in range(len(SUBPIXELS)):
                right, down = SUBPIXELS[number]
                pixel = (centre[0] + right / world.focal, centre[1] + down / world.focal, 1.0)
                depth, kind = first_met(world, pixel, nearby[:found])
                colour, _, _, cells = shade(world, kind, depth, pixel, 0.25 / world.focal)
                layer.cells[row, column, 1 + number] = cells
                total = along(total, colour, 1.0)
            for channel in range(3):
                layer.shown[row, 3 * column + channel] = total[channel] / len(SUBPIXELS)


@compiled
def on_edge(kind: np.ndarray, lit: np.ndarray, normal: np.ndarray, row: int, column: int) -> bool:
    """Whether a pixel differs from a neighbour in what it meets, in its light, or by a crease."""
    size = len(kind)
    for down, right in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        r, c = row + down, column + right
        if not (0 <= r < size and 0 <= c < size):
            continue
        if kind[r, c] != kind[row, column] or lit[r, c] != lit[row, column]:
            return True
        if kind[r, c] >= FIRST_SOLID:
            bend = 0.0
            for axis in range(3):
                bend += abs(normal[r, c, axis] - normal[row, column, axis])
            if bend > CREASE:
                return True
    return False


@compiled
def first_met(world: World, pixel: Triple, nearby: np.ndarray) -> tuple[float, int]:
    """Depth and kind of what a ray meets first of the room and the nearby solids."""
    depth, kind = backdrop(world.camera, pixel)
    for place in nearby:
        solid = world.solids[place]
        met = meet(solid, as_triple(solid.eye), turned(solid.rays, pixel))
        if 0.0 < met < depth:
            depth, kind = met, FIRST_SOLID + place
    return depth, kind


@compiled
def choose_fresh(layer: Layer, still: Layer, world: World, movers: int, fresh: np.ndarray) -> None:
    """Choose the pixels whose centres have to be painted again, and restore those painted before.

    Args:
        layer: depth and kind show movers and all; the rest is as the last frame left it.
        still: what does not move.
        world: all there is.
        movers: bits of the owners that move.
        fresh: `(H, W)`, the last frame's choice, at first all; receives this frame's.
    """
    size = len(fresh)
    for row in range(size):
        for column in range(size):
            before = fresh[row, column]
            fresh[row, column] = layer.kind[row, column] != still.kind[row, column] or may_darken(
                world.shades, movers, still.cells[row, column, 0]
            )
            if before and not fresh[row, column]:
                layer.lit[row, column] = still.lit[row, column]
                for axis in range(3):
                    layer.normal[row, column, axis] = still.normal[row, column, axis]
                    layer.colour[row, column, axis] = still.colour[row, column, axis]


@compiled
def choose_changed(still: Layer, world: World, movers: int, stamp: int, scratch: Scratch) -> None:
    """Choose the pixels that may show something else than without movers.

    Args:
        still: what does not move.
        world: all there is.
        movers: bits of the owners that move.
        stamp: of the call of `find_solids` that drew them.
        scratch: `changed` receives the choice.
    """
    fresh = scratch.fresh
    size = len(fresh)
    for row in range(size):
        for column in range(size):
            anew = (
                scratch.stamps[row, column] == stamp
                or fresh[row, column]
                or fresh[max(row - 1, 0), column]
                or fresh[min(row + 1, size - 1), column]
                or fresh[row, max(column - 1, 0)]
                or fresh[row, min(column + 1, size - 1)]
            )
            if still.edge[row, column] and not anew:
                for number in range(1, 1 + len(SUBPIXELS)):
                    anew |= may_darken(world.shades, movers, still.cells[row, column, number])
            scratch.changed[row, column] = anew


@compiled
def may_darken(shades: np.ndarray, movers: int, cells: int) -> bool:
    """Whether the shadow of a mover may fall on a point in these cells."""
    for number in range(len(shades)):
        cell = (cells >> (CELL_BITS * number)) & ((1 << CELL_BITS) - 1)
        if shades[number, cell] & movers:
            return True
    return False


@compiled
def report(
    layer: Layer, world: World, ids_of: np.ndarray, amodal: np.ndarray, frame: int, output: Output
) -> None:
    """Write one frame's ids and depth, and count the pixels in which each owner is seen."""
    size = len(layer.depth)
    for row in range(size):
        for column in range(size):
            kind = layer.kind[row, column]
            depth = 0.0 if kind == SKY_KIND else layer.depth[row, column]
            output.depth[frame, row, column] = depth
            output.ids[frame, row, column] = 0
            if kind >= FIRST_SOLID:
                owner = world.solids[kind - FIRST_SOLID].owner
                output.ids[frame, row, column] = ids_of[owner]
                output.visible[frame, owner] += 1
    for owner in range(len(amodal)):
        output.amodal[frame, owner] = amodal[owner]


@compiled
def develop(shown: np.ndarray, gain: float, frame: np.ndarray) -> None:
    """Colours to bytes; the square root stands for the display's gamma of 2.2."""
    factor = np.float32(gain)
    for row in range(len(shown)):
        for place in range(shown.shape[1]):
            bright = min(max(shown[row, place] * factor, np.float32(0)), np.float32(1))
            frame[row, place] = np.uint8(np.sqrt(bright) * np.float32(255) + np.float32(0.5))


@compiled
def restart(layer: Layer, still: Layer, shades: np.ndarray, still_shades: np.ndarray) -> None:
    """Depth, kind, what is shown, and shadows, as they are without movers."""
    size = len(layer.depth)
    for row in range(size):
        for column in range(size):
            layer.depth[row, column] = still.depth[row, column]
            layer.kind[row, column] = still.kind[row, column]
        for place in range(3 * size):
            layer.shown[row, place] = still.shown[row, place]
    for number in range(len(shades)):
        for cell in range(CELLS * CELLS):
            shades[number, cell] = still_shades[number, cell]


@compiled
def trace_frames(
    cameras: np.ndarray,
    poses: np.ndarray,
    movers: int,
    scene: World,
    gains: np.ndarray,
    ids_of: np.ndarray,
    reuse: bool,
    still: Layer,
    moved: Layer,
    scratch: Scratch,
    output: Output,
) -> None:
    """Trace a clip.

    Args:
        cameras: see `trace`.
        poses: see `trace`.
        movers: bits of the owners that are drawn over the still layer; none unless `reuse`.
        scene: the world, but for its camera and its shades.
        gains: see `trace`.
        ids_of: see `trace`.
        reuse: the still layer is the same in all frames.
        still: the layer of all things that do not move.
        moved: the layer of all things.
        scratch: room for notes.
        output: receives the result.
    """
    size = len(still.depth)
    pictured = len(output.frames) > 0
    for frame in range(len(output.ids)):
        stamp, pose, seen = 2 * frame + 1, poses[frame], still
        world = World(
            cameras[frame],
            scene.focal,
            scene.solids,
            scene.surfaces,
            scene.lights,
            scratch.still_shades,
        )
        if frame == 0 or not reuse:
            for number in range(len(world.shades)):
                for cell in range(CELLS * CELLS):
                    world.shades[number, cell] = 0
            settle(world, ~movers, pose, size)
            find_backdrop(still, world)
            find_solids(still, world, ~movers, stamp, scratch)
            if pictured:
                paint(still, world, scratch.everywhere)
                show(still, world, scratch.everywhere, scratch.nearby)
        if movers:
            stamp, seen = stamp + 1, moved
            world = World(
                world.camera,
                world.focal,
                world.solids,
                world.surfaces,
                world.lights,
                scratch.shades,
            )
            restart(moved, still, world.shades, scratch.still_shades)
            settle(world, movers, pose, size)
            find_solids(moved, world, movers, stamp, scratch)
            if pictured:
                choose_fresh(moved, still, world, movers, scratch.fresh)
                paint(moved, world, scratch.fresh)
                choose_changed(still, world, movers, stamp, scratch)
                show(moved, world, scratch.changed, scratch.nearby)
        report(seen, world, ids_of, scratch.amodal, frame, output)
        if pictured:
            develop(seen.shown, gains[frame], output.frames[frame])
