"""Generated images whose class is the shape of an object and the texture of the ground it lies on. Own construction.

Four shapes (disc, ring, cross, bar) on four textures (plain, stripes, checks, dots) are sixteen classes. Place, size and
rotation of the object, period, angle and phase of the texture, and tints and brightness of everything are random and say
nothing about the class; bands may cross the ground, and normal noise is added to every pixel. The object is always
lighter than the ground and both are drawn well above the noise, so that whoever knows the generator errs on the planted
wrong labels only: they are taken for the oracle, which is exact up to the few objects that noise makes ambiguous.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import identity
from workloads.data.image_set import SPLITS, ImageSet, Split, build

Pixels = np.ndarray  # (N, S S) float32
Field = Callable[[Pixels, Pixels], Pixels]

VERSION = 1  # of what is drawn
CHANNELS = 3
_GROUND, _MARKS, _OBJECT = 0.5, 0.2, 0.82  # brightness of the ground, of its texture and of the object
_TINT = 0.16  # largest deviation of a colour's channels from it
_SCALES, _OFFSET = (0.62, 0.8), 0.2  # of the object and its centre, in halves of the image's side
_PERIODS = (0.28, 0.42)  # of the texture, in the same unit
_CIRCLE = (-np.pi, np.pi)
_CHUNK = 64  # images drawn at a time, which fit a core's cache


def _disc(u: Pixels, v: Pixels) -> Pixels:
    return np.sqrt(u * u + v * v) - np.float32(0.85)


def _ring(u: Pixels, v: Pixels) -> Pixels:
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.7)) - np.float32(0.25)


def _cross(u: Pixels, v: Pixels) -> Pixels:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - np.float32(1.0), np.minimum(u, v) - np.float32(0.25))


def _bar(u: Pixels, v: Pixels) -> Pixels:
    return np.maximum(np.abs(u) - np.float32(1.05), np.abs(v) - np.float32(0.4))


def _plain(a: Pixels, b: Pixels) -> Pixels:
    return np.full_like(a, -1.0)


def _stripes(a: Pixels, b: Pixels) -> Pixels:
    return np.sin(a)


def _checks(a: Pixels, b: Pixels) -> Pixels:
    return np.sin(a) * np.sin(b)


def _dots(a: Pixels, b: Pixels) -> Pixels:
    return np.cos(a) + np.cos(b) - np.float32(0.6)


SHAPES: Mapping[str, Field] = {"disc": _disc, "ring": _ring, "cross": _cross, "bar": _bar}
"""Signed distance to the outline in the object's frame, about 1 wide; negative inside."""

TEXTURES: Mapping[str, Field] = {"plain": _plain, "stripes": _stripes, "checks": _checks, "dots": _dots}
"""Positive on the marks; both phases in radians."""

CLASSES = tuple(f"{shape} {texture}" for shape in SHAPES for texture in TEXTURES)


@dataclass(frozen=True)
class TexturedShapes:
    """train, test: images. turn: the object's largest rotation to either side, in degrees. clutter: bands across the ground.
    label_noise: share of the labels of every split, training included, that are replaced by another class, each equally
    likely; the best possible error rate. noise: standard deviation of the pixel noise (black is 0, white 1). seed: of
    everything.
    """

    train: int = 8192
    test: int = 10_240
    turn: float = 25.0
    clutter: int = 0
    label_noise: float = 0.0
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        most = 1.0 - 1.0 / len(CLASSES)
        if self.train < 1 or self.test < 1 or self.seed < 0 or self.clutter < 0 or not 0.0 <= self.turn <= 180.0:
            raise BadInput(f"{self}: use train >= 1, test >= 1, seed >= 0, clutter >= 0 and 0 <= turn <= 180")
        if not 0.0 <= self.label_noise < most or not 0.0 <= self.noise <= 1.0:
            raise BadInput(f"{self}: use 0 <= label_noise < {most:g} and 0 <= noise <= 1")

    def draw(self, count: int, size: int, stream: int) -> Split:
        """(count, size, size, 3) images, as many of every class as of the others up to one, and their true labels, (count,)."""
        rng = np.random.default_rng([self.seed, stream])
        labels = rng.permutation(np.arange(count, dtype=np.int32) % len(CLASSES))
        images = np.empty((count, size, size, CHANNELS), np.uint8)
        pairs = itertools.product(SHAPES.values(), TEXTURES.values())
        for label, (shape, texture) in enumerate(pairs):
            members = np.flatnonzero(labels == label)
            for rows in np.array_split(members, -(-len(members) // _CHUNK)) if len(members) else ():
                images[rows] = self._draw(rng, shape, texture, len(rows), size)
        return images, labels

    def spoil(self, labels: np.ndarray, stream: int) -> np.ndarray:
        """The labels, of which exactly round(label_noise N) random ones are replaced by a wrong one."""
        rng = np.random.default_rng([self.seed, stream, 1])
        rows = rng.permutation(len(labels))[: round(self.label_noise * len(labels))]
        spoiled = labels.copy()
        spoiled[rows] = (labels[rows] + rng.integers(1, len(CLASSES), len(rows))) % len(CLASSES)
        return spoiled

    def _draw(self, rng: np.random.Generator, shape: Field, texture: Field, count: int, size: int) -> np.ndarray:
        """(count, size, size, 3) uint8. Coordinates run from -1 to 1 over the image; channels come second until the end."""

        def uniform(low: float, high: float, channels: int | None = None) -> np.ndarray:
            return rng.uniform(low, high, (count, 1) if channels is None else (count, channels, 1)).astype(np.float32)

        def tint(brightness: float) -> np.ndarray:
            return np.float32(brightness) + uniform(-_TINT, _TINT, CHANNELS)

        edge = (np.arange(size, dtype=np.float32) * 2 + 1) / size - 1
        x, y = (axis.reshape(1, -1) for axis in np.meshgrid(edge, edge))
        pixel = np.float32(2 / size)

        picture = tint(_GROUND) + _turned(x, y, uniform(*_CIRCLE))[0][:, None] * tint(0.0)
        for _ in range(self.clutter):
            across = _turned(x, y, uniform(*_CIRCLE))[0] - uniform(-0.8, 0.8)
            picture += _step((uniform(0.03, 0.12) - np.abs(across)) / pixel)[:, None] * uniform(-0.5, 0.5, CHANNELS)
        per_radian = uniform(*_PERIODS) / np.float32(2 * np.pi)
        a, b = (place / per_radian + uniform(*_CIRCLE) for place in _turned(x, y, uniform(*_CIRCLE)))
        picture += _step(texture(a, b) * per_radian / pixel)[:, None] * (tint(_MARKS) - picture)

        scale, turn = uniform(*_SCALES), np.deg2rad(self.turn)
        across, down = ((place - uniform(-_OFFSET, _OFFSET)) / scale for place in (x, y))
        inside = _step(-shape(*_turned(across, down, uniform(-turn, turn))) * scale / pixel)
        picture += inside[:, None] * (tint(_OBJECT) - picture)
        picture += np.float32(self.noise) * rng.standard_normal(picture.shape, np.float32)
        shades = (np.clip(picture, 0.0, 1.0) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        return shades.transpose(0, 2, 1).reshape(count, size, size, CHANNELS)


def _turned(x: Pixels, y: Pixels, angle: np.ndarray) -> tuple[Pixels, Pixels]:
    """Coordinates in a frame turned by `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _step(distance: Pixels) -> Pixels:
    """0 to 1 around distance 0, one pixel wide: how much of the pixel is covered."""
    return np.clip(distance + np.float32(0.5), 0.0, 1.0)


def parse(settings: str) -> TexturedShapes:
    """The source written as "seed=3,label_noise=0.1" (empty: all defaults). Raises BadInput on bad settings."""
    kinds: dict[str, Callable[[str], int | float]] = {
        field.name: float if field.name in ("turn", "label_noise", "noise") else int for field in fields(TexturedShapes)
    }
    values: dict[str, int | float] = {}
    for setting in filter(None, settings.split(",")):
        name, _, value = setting.partition("=")
        if name.strip() not in kinds:
            raise BadInput(f"shapes has no setting '{setting}'. Write shapes:NAME=VALUE with {', '.join(kinds)}")
        try:
            values[name.strip()] = kinds[name.strip()](value)
        except ValueError:
            raise BadInput(f"shapes:{setting} needs a number after the equals sign") from None
    return TexturedShapes(**values)  # type: ignore[arg-type]


def load(settings: str, size: int, validation: int) -> ImageSet:
    """The source of `parse(settings)`, images of `size` x `size` pixels, `validation` of them for validation."""
    source = parse(settings)
    splits: dict[str, Split] = {}
    for stream, (split, count) in enumerate(zip(SPLITS, (source.train, validation, source.test), strict=True)):
        images, labels = source.draw(count, size, stream)
        splits[split] = images, source.spoil(labels, stream)
    info = {
        "data": "shapes",
        **asdict(source),
        "sha256": identity("textured_shapes", VERSION, **asdict(source), size=size, validation=validation),
        "class_names": list(CLASSES),
        "split": "independent draws, as many of every class",
    }
    wrong = round(source.label_noise * validation) / validation
    return build(splits, len(CLASSES), info, mirrors=True, oracle=wrong)
