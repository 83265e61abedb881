"""A synthetic data set: ten scene classes, drawn in seconds, in MiniPlaces' layout.

    python -m demo.data ../data/demo       2,000 training and 400 validation images of 128 x 128 pixels

Each image has its own generator, seeded by (seed, split, number), so the data do not depend on the number of cores.
Classes differ in layout and texture. Colour, light, weather, position, clutter and noise vary in all of them, and they
share parts on purpose: a coast, a bridge and a lake under mountains all have water; a road leads through fields,
deserts and forests.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from utils import save_image

SIZE = 128
STAMP = "demo.json"


class Canvas:
    """An RGB image, painted from back to front. Coordinates in [0, 1], x to the right, y down."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.picture = np.zeros((SIZE, SIZE, 3), np.float32)
        self.y, self.x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE

    # -- random values

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def colour(self, *base: float, spread: float = 0.05) -> np.ndarray:
        """A colour near `base`."""
        return np.clip(np.array(base) + self.rng.normal(0, spread, 3), 0, 1)

    def noise(self, across: int, down: int | None = None) -> np.ndarray:
        """Smooth noise, mean 0 and std about 1, interpolated from a grid of `down` x `across` values."""
        grid = self.rng.normal(0, 1, (down or across, across)).astype(np.float32)
        return cv2.resize(grid, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)

    def line(self, height: float, roughness: float, octaves: int = 5) -> np.ndarray:
        """A fractal horizon line: y for each pixel column."""
        total = np.zeros(SIZE, np.float32)
        for octave in range(octaves):
            points = self.rng.normal(0, 1, 2 + 2**octave).astype(np.float32)
            total += cv2.resize(points[None], (SIZE, 1), interpolation=cv2.INTER_LINEAR)[0] / 1.9**octave
        return height + roughness * total

    # -- shapes, as masks in [0, 1]

    def polygon(self, *points: tuple[float, float]) -> np.ndarray:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        corners = np.clip(np.array(points) * SIZE * 16, -1e6, 1e6).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, shift=4)
        return mask / np.float32(255)

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        return self.polygon((left, top), (right, top), (right, bottom), (left, bottom))

    def below(self, line: np.ndarray | float) -> np.ndarray:
        return np.clip((self.y - line) * SIZE + 0.5, 0, 1)

    def disc(self, x: float, y: float, radius: float, flat: float = 1.0) -> np.ndarray:
        distance = np.hypot(self.x - x, (self.y - y) / flat)
        return np.clip((radius - distance) * SIZE + 0.5, 0, 1)

    def glow(self, x: float, y: float, radius: float, flat: float = 1.0) -> np.ndarray:
        """A Gaussian blob."""
        return np.exp(-((self.x - x) ** 2 + ((self.y - y) / flat) ** 2) / radius**2)

    # -- paint

    def paint(self, mask: np.ndarray | float, colour: np.ndarray, texture: np.ndarray | float = 0.0) -> None:
        """Blend `colour`, modulated by `texture`, where `mask` is set."""
        surface = colour * (1 + np.asarray(texture, np.float32)[..., None])
        self.picture += np.broadcast_to(np.asarray(mask, np.float32)[..., None], self.picture.shape) * (
            surface - self.picture)

    def sky(self, horizon: float) -> None:
        """A gradient for a random time of day, with or without sun and clouds."""
        top, low = self.pick(((0.25, 0.45, 0.8), (0.7, 0.82, 0.95)), ((0.55, 0.58, 0.62), (0.78, 0.78, 0.78)),
                             ((0.2, 0.2, 0.4), (0.95, 0.6, 0.35)), ((0.06, 0.08, 0.18), (0.2, 0.22, 0.35)))
        self.paint(1.0, self.colour(*top))
        self.paint(np.clip(self.y / max(horizon, 0.1), 0, 1) ** 1.5, self.colour(*low))
        if self.rng.random() < 0.3:
            self.paint(self.disc(self.uniform(0, 1), self.uniform(0.05, horizon), 0.05), self.colour(1, 0.95, 0.8))
        if self.rng.random() < 0.6:
            clouds = self.noise(4, 8) + 0.5 * self.noise(12, 20) - self.uniform(0, 1)
            self.paint(0.8 * np.clip(clouds, 0, 1), self.colour(0.92, 0.92, 0.94))

    def water(self, top: float) -> None:
        """Water from `top` down, with waves that grow towards the viewer."""
        depth = np.clip((self.y - top) / (1 - top + 1e-3), 0.02, 1)
        waves = np.sin((1 / (depth + 0.12)) * self.uniform(15, 30) + 1.5 * self.noise(5, 12))
        self.paint(self.below(top), self.colour(*self.pick((0.1, 0.35, 0.5), (0.3, 0.42, 0.45), (0.08, 0.2, 0.3))),
                   0.18 * waves + 0.1 * self.noise(40, 60))

    def clutter(self) -> None:
        """Distractors unrelated to the class: birds, a person, a pole, a branch, a shadow."""
        for _ in range(self.rng.integers(0, 4)):
            x, y, dark = self.uniform(0, 1), self.uniform(0, 1), self.colour(0.15, 0.13, 0.13)
            kind = self.rng.integers(5)
            if kind == 0:
                for _ in range(self.rng.integers(1, 5)):
                    bx, by = self.uniform(0, 1), self.uniform(0, 0.4)
                    wings = (bx - 0.02, by - 0.01), (bx, by), (bx + 0.02, by - 0.012), (bx, by + 0.006)
                    self.paint(self.polygon(*wings), dark)
            elif kind == 1:
                y = max(y, 0.55)
                self.paint(self.disc(x, y, 0.016), self.colour(0.7, 0.5, 0.4))
                self.paint(self.box(x - 0.018, y + 0.015, x + 0.018, y + 0.12), self.colour(0.5, 0.3, 0.4, spread=0.25))
            elif kind == 2:
                self.paint(self.box(x - 0.008, self.uniform(0, 0.5), x + 0.008, 1), dark)
            elif kind == 3:
                side = self.pick(0.0, 1.0)
                for _ in range(12):
                    self.paint(self.disc(abs(side - self.uniform(0, 0.25)), self.uniform(0, 0.3), 0.03, 0.5),
                               self.colour(0.15, 0.3, 0.1))
            else:
                self.paint(0.5 * self.glow(x, y, self.uniform(0.1, 0.3), self.uniform(0.3, 1)), dark)

    def camera(self) -> np.ndarray:
        """The image with exposure, colour cast, haze, blur and sensor noise: H,W,3 uint8."""
        picture = self.picture * self.uniform(0.6, 1.15) * self.rng.normal(1, 0.06, 3)
        haze = self.uniform(0, 0.3) * np.clip(1.2 - self.y, 0, 1)[..., None]
        picture = picture * (1 - haze) + 0.8 * haze
        picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), self.uniform(0.35, 1.0))
        picture += self.rng.normal(0, self.uniform(0.003, 0.02), picture.shape)
        picture = picture[:, ::-1] if self.rng.random() < 0.5 else picture
        return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------- the scenes


def bridge(c: Canvas) -> None:
    shore = c.uniform(0.5, 0.7)
    c.sky(shore)
    c.paint(c.below(c.line(shore - 0.05, 0.02)), c.colour(0.25, 0.32, 0.25))
    c.water(shore)
    deck, tower, steel = shore - c.uniform(0.05, 0.15), c.uniform(0.1, 0.25), c.colour(0.45, 0.3, 0.28, spread=0.15)
    feet = c.uniform(0.15, 0.3), c.uniform(0.65, 0.85)
    for x in feet:
        c.paint(c.box(x - 0.02, tower, x + 0.02, shore + 0.08), steel)
    spans = ((-0.3, feet[0]), feet, (feet[1], 1.3))
    for left, right in spans:
        for x in np.linspace(max(left, 0), min(right, 1), 12):
            sag = tower + (deck - tower) * (1 - (2 * (x - left) / (right - left) - 1) ** 2)
            c.paint(c.box(x - 0.004, sag, x + 0.004, deck), steel)
    c.paint(c.box(0, deck, 1, deck + 0.035), 0.8 * steel)


def coast(c: Canvas) -> None:
    horizon = c.uniform(0.25, 0.5)
    c.sky(horizon)
    c.water(horizon)
    if c.rng.random() < 0.5:  # a headland
        rise = c.line(horizon, 0.02) - c.uniform(0.03, 0.15) * np.clip(1 - np.arange(SIZE) / (SIZE * 0.6), 0, 1)
        c.paint(c.below(rise) * (1 - c.below(horizon + 0.01)), c.colour(0.3, 0.33, 0.25), 0.15 * c.noise(20))
    slope, start = c.uniform(0.1, 0.5), c.uniform(0.6, 0.8)
    beach = start + slope * (np.arange(SIZE) / SIZE - 0.5) + 0.015 * np.sin(np.arange(SIZE) / c.uniform(6, 14))
    c.paint(c.below(beach - 0.03), c.colour(0.92, 0.94, 0.95), 0.1 * c.noise(40))  # foam
    c.paint(c.below(beach), c.colour(*c.pick((0.82, 0.72, 0.52), (0.6, 0.55, 0.48))), 0.06 * c.noise(60))


def corridor(c: Canvas) -> None:
    x, y, w, h = c.uniform(0.35, 0.65), c.uniform(0.38, 0.55), c.uniform(0.07, 0.14), c.uniform(0.08, 0.16)
    wall, floor = c.colour(0.75, 0.72, 0.62, spread=0.12), c.colour(0.45, 0.38, 0.33, spread=0.12)
    distance = np.maximum(np.abs(c.x - x) / w, np.abs(c.y - y) / h)
    depth = np.clip(0.45 + 0.09 * distance, 0, 1) - 1
    c.paint(1.0, wall, depth + 0.03 * c.noise(30))
    c.paint(c.polygon((x - w, y + h), (x + w, y + h), (x + 12 * w, y + 12 * h), (x - 12 * w, y + 12 * h)), floor,
            depth + 0.12 * np.sin(9 * np.log(distance + 0.1)))
    c.paint(c.polygon((x - w, y - h), (x + w, y - h), (x + 12 * w, y - 12 * h), (x - 12 * w, y - 12 * h)),
            c.colour(0.85, 0.85, 0.82), depth)
    door, lamp = c.colour(0.4, 0.28, 0.2, spread=0.1), c.colour(1, 1, 0.92, spread=0.03)
    for near, far in ((1.4, 1.8), (2.3, 3.1), (4.2, 6.0)):
        for side in (-1, 1):
            if c.rng.random() < 0.8:
                c.paint(c.polygon((x + side * w * near, y - 0.55 * h * near), (x + side * w * far, y - 0.55 * h * far),
                                  (x + side * w * far, y + h * far), (x + side * w * near, y + h * near)), door)
        c.paint(c.polygon((x - 0.3 * w * near, y - h * near), (x + 0.3 * w * near, y - h * near),
                          (x + 0.3 * w * far, y - h * far), (x - 0.3 * w * far, y - h * far)), lamp)
    c.paint(c.box(x - w, y - h, x + w, y + h), c.pick(lamp, door, 0.6 * wall))


def bedroom(c: Canvas) -> None:
    floor, wall = c.uniform(0.6, 0.75), c.colour(0.75, 0.7, 0.66, spread=0.13)
    stripes = c.pick(0, 0.08) * np.sign(np.sin(c.x * c.uniform(40, 90)))
    c.paint(1.0, wall, stripes + 0.04 * c.noise(3))
    c.paint(c.below(floor), c.colour(0.45, 0.33, 0.25, spread=0.1), 0.08 * np.sin(c.y * 160) + 0.05 * c.noise(8, 40))
    left, width, top = c.uniform(0.05, 0.35), c.uniform(0.4, 0.6), floor - c.uniform(0.02, 0.1)
    if c.rng.random() < 0.7:  # a window, or a picture
        x, y, view = c.uniform(0.1, 0.6), c.uniform(0.08, 0.18), c.colour(0.7, 0.8, 0.9, spread=0.15)
        c.paint(c.box(x - 0.02, y - 0.02, x + 0.27, y + 0.27), c.colour(0.9, 0.88, 0.85))
        c.paint(c.box(x, y, x + 0.25, y + 0.25), view, 0.1 * c.noise(6))
        c.paint(c.box(x + 0.12, y, x + 0.13, y + 0.25), c.colour(0.9, 0.88, 0.85))
    wood, sheet = c.colour(0.4, 0.26, 0.17), c.colour(0.8, 0.8, 0.82, spread=0.15)
    c.paint(c.box(left, top - 0.22, left + 0.05, 0.93), wood)  # headboard
    c.paint(c.polygon((left, top), (left + width, top), (left + width + 0.12, 0.88), (left + 0.08, 0.88)), sheet,
            0.08 * c.noise(10))
    c.paint(c.polygon((left + 0.3 * width, top), (left + width, top), (left + width + 0.12, 0.88),
                      (left + 0.3 * width + 0.08, 0.88)), c.colour(0.5, 0.35, 0.45, spread=0.15), 0.12 * c.noise(14))
    c.paint(c.disc(left + 0.14, top + 0.05, 0.1, 0.5), c.colour(0.95, 0.95, 0.95, spread=0.03))  # pillow
    if c.rng.random() < 0.6:  # lamp
        x = left + width + c.uniform(0.05, 0.15)
        c.paint(0.6 * c.glow(x, top - 0.2, 0.16), c.colour(1, 0.85, 0.5))
        c.paint(c.polygon((x - 0.03, top - 0.25), (x + 0.03, top - 0.25), (x + 0.06, top - 0.14),
                          (x - 0.06, top - 0.14)), c.colour(1, 0.92, 0.7))
        c.paint(c.box(x - 0.008, top - 0.14, x + 0.008, top + 0.05), wood)


def desert(c: Canvas) -> None:
    horizon = c.uniform(0.3, 0.5)
    c.sky(horizon)
    sand = c.colour(0.85, 0.62, 0.38)
    for step in range(c.rng.integers(3, 6)):
        crest = c.line(horizon + 0.13 * step, 0.05, octaves=3)
        crest = cv2.GaussianBlur(crest[None], (0, 0), 6)[0]
        depth = np.clip((c.y - crest) / 0.25, 0, 1)
        ripples = np.sin((c.y * c.uniform(90, 150) + c.x * c.uniform(-40, 40)) + 2 * c.noise(4))
        c.paint(c.below(crest), sand * c.uniform(0.75, 1.05), 0.25 * (0.5 - depth) + 0.04 * (1 + step) * 0.5 * ripples)


def field(c: Canvas) -> None:
    horizon = c.uniform(0.3, 0.5)
    c.sky(horizon)
    c.paint(c.below(c.line(horizon - 0.02, 0.015)), c.colour(0.2, 0.3, 0.18), 0.2 * c.noise(40))
    x, depth = c.uniform(-0.2, 1.2), np.clip(c.y - horizon, 0.004, 1)
    rows = np.sin((c.x - x) / depth * c.uniform(3, 6))
    crop = c.colour(*c.pick((0.3, 0.5, 0.18), (0.75, 0.65, 0.25), (0.45, 0.35, 0.2)))
    c.paint(c.below(horizon), crop, 0.3 * rows * np.clip(depth * 8, 0, 1) + 0.12 * c.noise(30, 60))
    if c.rng.random() < 0.4:  # a barn
        left, base = c.uniform(0.1, 0.75), horizon + 0.02
        c.paint(c.box(left, base - 0.08, left + 0.14, base), c.colour(0.5, 0.2, 0.15))
        c.paint(c.polygon((left - 0.01, base - 0.08), (left + 0.07, base - 0.14), (left + 0.15, base - 0.08)),
                c.colour(0.3, 0.25, 0.25))


def forest_path(c: Canvas) -> None:
    leaves = c.colour(*c.pick((0.25, 0.42, 0.15), (0.55, 0.38, 0.12), (0.2, 0.3, 0.2)))
    c.paint(1.0, leaves, 0.35 * c.noise(50) + 0.3 * c.noise(14))
    c.paint(0.8 * c.glow(c.uniform(0.35, 0.65), c.uniform(0.25, 0.45), 0.2, 1.5), c.colour(0.85, 0.88, 0.75),
            0.25 * c.noise(40))
    ground = c.uniform(0.55, 0.7)
    c.paint(c.below(c.line(ground, 0.015)), 0.6 * leaves, 0.3 * c.noise(50, 70))
    x, near = c.uniform(0.35, 0.65), c.uniform(0.2, 0.35)
    c.paint(c.polygon((x - 0.03, ground), (x + 0.03, ground), (0.5 + near, 1), (0.5 - near, 1)),
            c.colour(0.55, 0.45, 0.33), 0.12 * c.noise(30))
    for width in sorted(c.rng.uniform(0.006, 0.05, c.rng.integers(9, 18))):  # far trunks first
        x = c.uniform(0, 0.42) if c.rng.random() < 0.5 else c.uniform(0.58, 1)
        foot = ground + 5 * width + c.uniform(-0.02, 0.02)
        c.paint(c.polygon((x - 0.7 * width, 0), (x + 0.7 * width, 0), (x + width, foot), (x - width, foot)),
                c.colour(0.25, 0.2, 0.15, spread=0.05), 0.3 * c.noise(60, 10))
    c.paint(np.clip(c.noise(40) - 0.3 - 3 * c.y, 0, 1), 1.1 * leaves)


def highway(c: Canvas) -> None:
    horizon, x = c.uniform(0.35, 0.5), c.uniform(0.3, 0.7)
    c.sky(horizon)
    c.paint(c.below(c.line(horizon - 0.03, 0.03)), c.colour(0.3, 0.38, 0.3), 0.15 * c.noise(20))
    c.paint(c.below(horizon), c.colour(*c.pick((0.35, 0.45, 0.2), (0.7, 0.58, 0.38), (0.5, 0.5, 0.45))),
            0.15 * c.noise(40, 60))
    centre, half = c.uniform(0.3, 0.7), c.uniform(0.4, 0.7)
    c.paint(c.polygon((x - 0.015, horizon), (x + 0.015, horizon), (centre + half, 1), (centre - half, 1)),
            c.colour(0.33, 0.33, 0.35, spread=0.05), 0.06 * c.noise(50))
    lane, steps = c.colour(0.95, 0.93, 0.75, spread=0.04), np.linspace(0, 1, 9) ** 2
    for near, far in zip(steps[1::2], steps[2::2]):
        points = [(x + (centre - x) * t + s * (0.002 + 0.02 * t), horizon + (1 - horizon) * t)
                  for t, s in ((near, -1), (near, 1), (far, 1), (far, -1))]
        c.paint(c.polygon(*points), lane)
    for side in (-0.93, 0.93):
        edge = centre + side * half
        c.paint(c.polygon((x, horizon), (edge + 0.02, 1), (edge - 0.02, 1)), lane)
    for _ in range(c.rng.integers(0, 3)):  # cars
        t = c.uniform(0.1, 0.7)
        size, cx = 0.02 + 0.11 * t, x + (centre + c.pick(-0.45, 0.45) * half - x) * t
        y = horizon + (1 - horizon) * t
        c.paint(c.box(cx - size, y - 0.6 * size, cx + size, y + 0.4 * size), c.colour(0.5, 0.3, 0.3, spread=0.25))
        c.paint(c.box(cx - 0.7 * size, y - 1.1 * size, cx + 0.7 * size, y - 0.5 * size), c.colour(0.15, 0.17, 0.2))


def mountain(c: Canvas) -> None:
    horizon = c.uniform(0.55, 0.75)
    c.sky(horizon)
    for height, rough, tone in ((0.3, 0.09, 0.75), (0.42, 0.06, 0.6), (0.55, 0.04, 0.45)):
        crest = c.line(c.uniform(height - 0.05, height + 0.08), rough)
        c.paint(c.below(crest), c.colour(0.9 * tone, 0.95 * tone, tone), 0.18 * c.noise(24, 10) + 0.12 * c.noise(50))
        if tone > 0.7 and c.rng.random() < 0.75:
            snow = crest + c.uniform(0.03, 0.1) + 0.05 * c.line(0, 1)
            c.paint(c.below(crest) * (1 - c.below(snow)), c.colour(0.95, 0.96, 0.98, spread=0.02),
                    0.08 * c.noise(24, 10))
    if c.rng.random() < 0.4:
        c.water(horizon + 0.12)
    else:
        c.paint(c.below(c.line(horizon + 0.1, 0.02)), c.colour(0.2, 0.3, 0.15), 0.25 * c.noise(50, 30))


def skyscraper(c: Canvas) -> None:
    c.sky(0.9)
    for depth in range(c.rng.integers(3, 7)):
        left, width = c.uniform(-0.1, 0.9), c.uniform(0.12, 0.3)
        top, lean = c.uniform(0.02, 0.5) * (1 - depth / 12), c.uniform(-0.04, 0.04)
        facade = c.polygon((left + lean, top), (left + width - lean, top), (left + width, 1), (left, 1))
        wall = c.colour(0.42, 0.45, 0.5, spread=0.14)
        across, down = c.uniform(60, 160), c.uniform(60, 160)
        panes = (np.sin(c.x * across) > -0.2) & (np.sin(c.y * down) > c.uniform(-0.5, 0.3))
        c.paint(facade, wall, 0.06 * c.noise(10) + 0.25 * (c.x - left) / width - 0.1)
        lit = c.colour(*c.pick((0.2, 0.25, 0.32), (0.9, 0.8, 0.5), (0.6, 0.72, 0.8)))
        c.paint(0.8 * facade * panes * (c.noise(40) > c.uniform(-2, 0)), lit)
    if c.rng.random() < 0.4:
        c.paint(c.below(c.uniform(0.85, 0.93)), c.colour(0.25, 0.25, 0.27))


SCENES: list[Callable[[Canvas], None]] = [bedroom, bridge, coast, corridor, desert, field, forest_path, highway,
                                          mountain, skyscraper]


def draw(label: int, *key: int) -> np.ndarray:
    """One image of class `label`, SIZE,SIZE,3 uint8 RGB, with `key` as seed."""
    canvas = Canvas(np.random.default_rng(key))
    SCENES[label](canvas)
    canvas.clutter()
    return canvas.camera()


# --------------------------------------------------------------------------------------------- the folder


def _draw_file(seed: int, folder: Path, job: tuple[int, int, int, str]) -> None:
    split, number, label, name = job
    save_image(folder / "images" / name, draw(label, seed, split, number))


def plan(train: int, val: int) -> dict[str, list[tuple[int, int, int, str]]]:
    """{split: [(split number, image number, label, file name)]}, cycling through the classes."""
    names = [scene.__name__ for scene in SCENES]
    jobs = {"train": [], "val": []}
    for i in range(train):
        name = names[i % len(names)]
        jobs["train"].append((0, i, i % len(names), f"train/{name[0]}/{name}/{i // len(names) + 1:08}.jpg"))
    for i in range(val):
        jobs["val"].append((1, i, i % len(names), f"val/{i + 1:08}.jpg"))
    return jobs


def make(folder: Path, train: int = 2000, val: int = 400, seed: int = 0) -> bool:
    """Draw the data set into `folder`, atomically. Returns False if it is there already, with these settings.

    Raises FileExistsError if `folder` holds anything but demo data.
    """
    settings = {"train": train, "val": val, "seed": seed, "size": SIZE, "classes": len(SCENES)}
    if (folder / STAMP).exists() and json.loads((folder / STAMP).read_text()) == settings:
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / STAMP).exists():
        raise FileExistsError(f"{folder}: is there and is not the demo data; give an empty or a new folder")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    jobs = plan(train, val)
    for path in {part / "images" / Path(job[3]).parent for rows in jobs.values() for job in rows}:
        path.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        everything = jobs["train"] + jobs["val"]
        list(pool.map(partial(_draw_file, seed, part), everything, chunksize=32))
    for split, rows in jobs.items():
        (part / f"{split}.txt").write_text("".join(f"{name} {label}\n" for _, _, label, name in rows))
    (part / "categories.txt").write_text("".join(f"/{scene.__name__[0]}/{scene.__name__} {label}\n"
                                                 for label, scene in enumerate(SCENES)))
    (part / STAMP).write_text(json.dumps(settings))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to create, e.g. ../data/demo")
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="training images (default: 2000)")
    parser.add_argument("--val", type=int, default=400, metavar="N", help="validation images (default: 400)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    args = parser.parse_args(argv)
    if min(args.train, args.val) < len(SCENES):
        parser.error(f"--train and --val have to be at least {len(SCENES)}, one image for each class")
    try:
        drawn = make(args.folder.resolve(), args.train, args.val, args.seed)
    except OSError as error:
        parser.error(str(error))
    print(f"{args.folder}: {args.train} + {args.val} images of {len(SCENES)} scenes, "
          f"{'drawn' if drawn else 'there already'}")


if __name__ == "__main__":
    main()
