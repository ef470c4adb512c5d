"""Geometry of small charts: scales, ticks and paths; the template draws them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

WIDTH, WIDE = 360, 720
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 12, 38
"""Room around the plot, for ticks and labels."""
TICKS = 6
"""So many ticks an axis has, about."""


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] to [start, end]; what lies outside goes to the nearest end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A path, its class in the style sheet and its name in the legend."""

    path: str
    style: str
    label: str = ""


@dataclass(frozen=True)
class Bar:
    """A rectangle and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    style: str
    text: str


@dataclass
class Chart:
    """One picture.

    Attributes:
        title, description: what it shows, also to those who cannot see it.
        x, y: (low, high) of the axes, in the units of the values that are drawn.
        height, width: of the whole.
        x_label, y_label: with units.
    """

    title: str
    description: str
    x: tuple[float, float]
    y: tuple[float, float]
    height: int
    x_label: str
    y_label: str
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    number: int = 0
    width: int = WIDTH

    left, top = LEFT, TOP

    @property
    def right(self) -> int:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Where the plot ends."""
        return self.height - BOTTOM

    @property
    def across(self) -> Scale:
        """Of x."""
        return Scale(*self.x, self.left, self.right)

    @property
    def up(self) -> Scale:
        """Of y."""
        return Scale(*self.y, self.bottom, self.top)

    @property
    def legend(self) -> list[Line]:
        """The lines that have names."""
        return [line for line in self.lines if line.label]

    def mark(self, x: Iterable[tuple[float, str]], y: Iterable[tuple[float, str]]) -> None:
        """Set the ticks, given as (value, text)."""
        self.x_ticks = [Tick(self.across(value), text) for value, text in x]
        self.y_ticks = [Tick(self.up(value), text) for value, text in y]

    def draw(self, x: Sequence[float], y: Sequence[float], style: str, label: str = "") -> None:
        """Add a line; it is broken where a value is not finite, and ends at the edge of the plot."""
        across, up = self.across, self.up
        parts, pen = [], "M"
        for a, b in zip(x, y, strict=True):
            if not math.isfinite(b):
                pen = "M"
                continue
            parts.append(f"{pen}{across(a):g} {up(b):g}")
            pen = "L"
        self.lines.append(Line("".join(parts), style, label))

    def vertical(self, x: float, style: str, label: str) -> None:
        """Add a line from the bottom to the top."""
        self.lines.append(Line(f"M{self.across(x):g} {self.bottom}V{self.top}", style, label))

    def horizontal(self, y: float, style: str, label: str) -> None:
        """Add a line from the left to the right."""
        self.lines.append(Line(f"M{self.left} {self.up(y):g}H{self.right}", style, label))

    def bar(self, x: tuple[float, float], y: float, style: str, text: str) -> None:
        """Add a rectangle that stands on the axis; one that is not empty is seen."""
        first, last, top = self.across(x[0]), self.across(x[1]), self.up(y)
        if y > self.y[0]:
            top = min(top, self.bottom - 0.8)
        size = round(self.bottom - top, 1)
        self.bars.append(Bar(first, round(top, 1), round(last - first, 1), size, style, text))


def ticks(low: float, high: float, count: int = TICKS) -> list[tuple[float, str]]:
    """About ``count`` round numbers from low to high, and how they are written."""
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, short(i * step)) for i in range(first, last + 1)]


def decades(low: float, high: float, count: int = TICKS) -> list[tuple[float, str]]:
    """Powers of ten from 10**low to 10**high, as (exponent, text)."""
    first, last = math.ceil(low), math.floor(high)
    step = max(1, math.ceil((last - first + 1) / count))
    return [(float(i), short(10.0**i) if abs(i) < 4 else f"1e{i}".replace("-", "−")) for i in range(first, last + 1, step)]


def short(value: float, digits: int = 3) -> str:
    """A number with few digits and a true minus sign: 5.2e-6, 0.013, 1,200."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    number, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if value == 0:
        return "0"
    if -4 < exponent < 6:
        text = f"{value:,.{max(digits - 1 - exponent, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{float(number):g}e{exponent}"
    return text.replace("-", "−")


def log10(value: float, floor: float) -> float:
    """log10 of a value that is not below ``floor``."""
    return math.log10(max(value, floor)) if not math.isnan(value) else math.nan


def padded(values: Iterable[float], room: float = 0.06) -> tuple[float, float]:
    """(low, high) around the finite values, with some room."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return low - room * (high - low), high + room * (high - low)
