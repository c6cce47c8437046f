"""Draw the map of docs/architecture.md from the imports themselves: `make map`.

Rooms are boxes, imports between them are arrows, and a room stands below every room that imports it. An import is
left out where a chain of others says it too. Numbers in circles are the steps of three routes: those of a CT, of a
patch and of a metric, each step a name that exists in the code.
"""

from __future__ import annotations

import argparse
import ast
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from docs.import_map import MODULES, PACKAGES, REPOSITORY, imports_of, room

MAP = REPOSITORY / "docs" / "images" / "architecture.svg"

# Rooms of one file, whose docstring is longer than a box.
SINGLE = {
    "networks": "R2U-Net and UPerNet in 2D and 3D, in plain torch and MONAI layers. They import nothing else of ours.",
    "transforms.errors": "What a user is told and can mend.",
    "transforms.hounsfield": "Whether values can be HU.",
    "transforms.intensity": "From HU to what a network sees.",
    "transforms.label_values": "Classes in a label map.",
    "transforms.normalization": "What is done to a channel, in words.",
    "transforms.preprocess": "To the network's grid, and back.",
}


@dataclass(frozen=True)
class Route:
    """The way of one thing through the rooms: each step a name of the code, and what happens there."""

    title: str
    colour: str
    steps: tuple[tuple[str, str], ...]


ROUTES = (
    Route(
        "A CT that is segmented",
        "#1f6fd0",
        (
            ("pipelines.data.inputs.find_inputs", "a path to cases"),
            ("transforms.dicom.series.read_series", "slices to HU"),
            ("transforms.io.readers.read_image", "one way in"),
            ("transforms.preprocess.Preprocess", "RAS, crop, spacing"),
            ("pipelines.inference.evaluator.SegEvaluator", "window by window"),
            ("transforms.spatial.restore.Restorer", "on the file's grid"),
            ("pipelines.inference.outputs.Outputs", "NIfTI, DICOM SEG"),
        ),
    ),
    Route(
        "A patch that is trained on",
        "#c2510c",
        (
            ("pipelines.data.patch_store.PatchStore", "cases, on disk"),
            ("pipelines.data.patch_dataset.PatchDataset", "cuts it out"),
            ("transforms.augmentation.patch_augmentation.PatchAugmentation", "varies it"),
            ("pipelines.data.loaders.patch_loader", "makes batches"),
            ("pipelines.training.trainer.SegTrainer", "one training step"),
            ("networks.r2unet.R2UNet", "logits per voxel"),
            ("pipelines.training.losses.SegLoss", "Dice and CE"),
        ),
    ),
    Route(
        "A metric that is compared",
        "#2c7d32",
        (
            ("pipelines.evaluation.validation.validate", "all cases"),
            ("pipelines.inference.evaluator.SegEvaluator", "predicts and scores"),
            ("pipelines.metrics.overlap.overlap_metrics", "Dice per class"),
            ("pipelines.training.run_logger.Record", "what the run says"),
            ("pipelines.tracking.journal.Journal", "on disk first"),
            ("pipelines.tracking.delivery.Delivery", "then to MLflow"),
            ("pipelines.comparison.comparison.compare", "run against run"),
        ),
    ),
)

WIDTH = 960
ROW, HEIGHT = 98, 68
# Of the widest font that a browser may take, at the size of a box's text.
WIDE_LETTER = 6.6
INK, GREY, LINE = "#1c2733", "#56636f", "#8a97a3"
FILL = {"networks": "#f3ecfa", "transforms": "#e9f3ec", "pipelines": "#e9f0f9"}
EDGE = {"networks": "#8756b3", "transforms": "#3d8a57", "pipelines": "#4a76b0"}
TOP = 134


@dataclass(frozen=True)
class Room:
    """A box of the map."""

    name: str
    line: str
    files: int


def drawn_room(module: str) -> str:
    """The room that a module is drawn in: `python -m pipelines` begins in `__main__`, which is the commands' door."""
    return "pipelines.cli" if module == "pipelines.__main__" else room(module)


def rooms() -> dict[str, Room]:
    """Every room of the code by name; the packages' own `__init__` belongs to none."""
    files: dict[str, int] = {}
    for module in MODULES:
        if module == "networks" or module not in PACKAGES:
            files[drawn_room(module)] = files.get(drawn_room(module), 0) + 1
    return {name: Room(name, _line(name), count) for name, count in sorted(files.items())}


def _line(name: str) -> str:
    if name in SINGLE:
        return SINGLE[name]
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    if not docstring:
        raise SystemExit(
            f"{MODULES[name]} has no docstring; one line there says on the map what the room is for"
        )
    return docstring.splitlines()[0]


def arrows(found: Collection[str]) -> set[tuple[str, str]]:
    """Imports (from, to) between rooms of one package, without those that a chain of others says too."""
    graph: dict[str, set[str]] = {name: set() for name in found}
    for module in MODULES:
        source = drawn_room(module)
        if source in graph:
            targets = {drawn_room(target) for target in imports_of(module)}
            graph[source] |= {
                t for t in targets if t in graph and t != source and _package(t) == _package(source)
            }
    return {
        (source, target)
        for source, targets in graph.items()
        for target in targets
        if not any(target in _reached(graph, other) for other in targets - {target})
    }


def _package(name: str) -> str:
    return name.partition(".")[0]


def _reached(graph: Mapping[str, Collection[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = set(graph[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def levels(found: Collection[str], edges: Collection[tuple[str, str]]) -> dict[str, int]:
    """Rows of one package from the top: a room stands just below the lowest of those that import it."""
    level: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in level:
            level[name] = max((of(source) + 1 for source, target in edges if target == name), default=0)
        return level[name]

    for name in found:
        of(name)
    return level


@dataclass(frozen=True)
class Panel:
    """A package's part of the map."""

    package: str
    left: float
    width: float
    widest: float
    says: str

    def holds(self, box: Box) -> bool:
        return self.left <= box.x < self.left + self.width


PANELS = (
    Panel("pipelines", 16, 490, 196, "pipelines/: what happens to a cohort; imports transforms"),
    Panel("transforms", 524, 408, 176, "transforms/: what happens to one image"),
)


@dataclass
class Box:
    """Where a room is drawn."""

    x: float
    y: float
    width: float
    height: float = HEIGHT

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def _placed(found: Mapping[str, Room], edges: Collection[tuple[str, str]]) -> dict[str, Box]:
    """Boxes of the rooms."""
    boxes: dict[str, Box] = {}
    for panel in PANELS:
        inside = [name for name in found if _package(name) == panel.package]
        level = levels(inside, edges)
        for row in range(max(level.values()) + 1):
            names = sorted((n for n in inside if level[n] == row), key=lambda n: (_pull(n, boxes, edges), n))
            width = min((panel.width - 14 * (len(names) + 1)) / len(names), panel.widest)
            gap = (panel.width - width * len(names)) / (len(names) + 1)
            for place, name in enumerate(names):
                boxes[name] = Box(panel.left + gap + place * (width + gap), TOP + 36 + row * ROW, width)
    right = PANELS[1]
    bottom = max(box.y + HEIGHT for box in boxes.values())
    boxes["networks"] = Box(right.left, bottom + 12 - HEIGHT, right.width)
    return boxes


def _pull(name: str, boxes: Mapping[str, Box], edges: Collection[tuple[str, str]]) -> float:
    """The mean place of the rooms that import this one."""
    above = [boxes[source].middle for source, target in edges if target == name]
    return sum(above) / len(above) if above else 0.0


def _text(x: float, y: float, words: str, size: float = 12, colour: str = INK, **attributes: str) -> str:
    more = "".join(f" {key.replace('_', '-')}={quoteattr(value)}" for key, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{more}>{escape(words)}</text>'


def _badge(x: float, y: float, number: int, colour: str) -> str:
    centred = _text(x, y + 4, str(number), 11.5, "#ffffff", text_anchor="middle", font_weight="bold")
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9.5" fill="{colour}" stroke="#ffffff"/>{centred}'


def _drawn_room(found: Room, box: Box) -> str:
    package = _package(found.name)
    short = found.name.partition(".")[2] or found.name
    lines = textwrap.wrap(found.line, int((box.width - 14) / WIDE_LETTER))
    if len(lines) > 3:
        raise SystemExit(f"{found.name}: {found.line!r} does not fit its box on the map; say it shorter")
    parts = [
        f'<g class="room" data-room={quoteattr(found.name)} data-files="{found.files}"'
        f" data-line={quoteattr(found.line)}>",
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height}" rx="6"'
        f' fill="{FILL[package]}" stroke="{EDGE[package]}"/>',
        _text(box.x + 8, box.y + 19, short, 13, font_weight="bold"),
    ]
    parts.append(
        _text(box.x + box.width - 7, box.y + HEIGHT - 6, str(found.files), 11, GREY, text_anchor="end")
    )
    parts += [_text(box.x + 8, box.y + 34 + 13 * i, line, 11, GREY) for i, line in enumerate(lines)]
    return "\n".join([*parts, "</g>"])


def _lane(x: float, wanted: float, row: float, boxes: Mapping[str, Box], panel: Panel) -> float:
    """Where an arrow at `x` passes between the boxes of a row: straight on, or near the place that is wanted."""
    free, edge = [], panel.left
    for box in sorted((b for b in boxes.values() if b.y == row and panel.holds(b)), key=lambda b: b.x):
        free.append((edge + 7, box.x - 7))
        edge = box.x + box.width
    free.append((edge + 7, panel.left + panel.width - 7))
    if any(start <= x <= end for start, end in free):
        return x
    return min((min(max(wanted, start), end) for start, end in free), key=lambda lane: abs(lane - wanted))


def _drawn_arrow(source: str, target: str, boxes: Mapping[str, Box]) -> str:
    above, below = boxes[source], boxes[target]
    panel = next(p for p in PANELS if p.package == _package(source))
    # Towards the target, so that arrows of one box leave it side by side.
    lean = max(-0.3, min(0.3, (below.middle - above.middle) / 500))
    x, y = above.middle + lean * above.width, above.y + above.height
    end = below.middle - lean * below.width / 2.5
    path = [f"M{x:.1f},{y:.1f}"]
    stops: list[tuple[float, float]] = []
    for row in range(1, round((below.y - above.y) / ROW)):
        at = above.y + row * ROW
        wanted = x + (end - x) * row * ROW / (below.y - above.y)
        lane = _lane(stops[-1][0] if stops else wanted, wanted, at, boxes, panel)
        stops += [(lane, at - 4), (lane, at + HEIGHT + 4)]
    for to_x, to_y in [*stops, (end, below.y - 2)]:
        bend = (to_y - y) / 2
        path.append(f"C{x:.1f},{y + bend:.1f} {to_x:.1f},{to_y - bend:.1f} {to_x:.1f},{to_y:.1f}")
        x, y = to_x, to_y
    return (
        f'<path class="import" data-from={quoteattr(source)} data-to={quoteattr(target)} fill="none"'
        f' stroke="{LINE}" stroke-width="1.4" marker-end="url(#tip)" d="{" ".join(path)}"/>'
    )


def _drawn_routes(top: float) -> tuple[list[str], float]:
    """The three routes as rows of steps, below the map."""
    parts, step_width = [], (WIDTH - 32) / max(len(route.steps) for route in ROUTES)
    for route in ROUTES:
        parts.append(_text(16, top + 14, route.title, 14, route.colour, font_weight="bold"))
        for number, (name, words) in enumerate(route.steps, start=1):
            x, y = 16 + (number - 1) * step_width, top + 30
            short, width, tip = name.rpartition(".")[2], step_width - 4, 9
            notch = f" l{tip},-22" if number > 1 else ""
            outline = f"M{x:.1f},{y} h{width - tip:.1f} l{tip},22 l{-tip},22 h{tip - width:.1f}{notch} z"
            start = x + (8 if number == 1 else 15)
            room_for_name = width - 32
            squeezed = len(short) * 7.6 > room_for_name
            fit = (
                {"textLength": f"{room_for_name:.0f}", "lengthAdjust": "spacingAndGlyphs"} if squeezed else {}
            )
            parts += [
                f'<g class="step" data-route={quoteattr(route.title)} data-step={quoteattr(name)}'
                f" data-words={quoteattr(words)}>",
                f'<path d="{outline}" fill="{route.colour}" fill-opacity="0.1" stroke="{route.colour}"/>',
                _badge(x + 12, y, number, route.colour),
                _text(start, y + 22, short, 11.5, font_weight="bold", **fit),
                _text(start, y + 37, words, 11, GREY),
                "</g>",
            ]
        top += 96
    return parts, top


def _package_arrow(source: str, target: str, path: str) -> str:
    return (
        f'<path class="import" data-from="{source}" data-to="{target}" fill="none" stroke="{INK}"'
        f' stroke-width="2" marker-end="url(#dark)" d="{path}"/>'
    )


def draw() -> str:
    """The map as SVG."""
    found = rooms()
    edges = arrows(found)
    boxes = _placed(found, edges)
    bottom = max(box.y + box.height for box in boxes.values())
    parts = [
        _text(16, 30, "The rooms, who imports whom, and three ways through them", 18, font_weight="bold"),
        _text(
            16,
            51,
            "An arrow points at what is imported, always downwards. Where a chain of them leads, none is"
            " drawn. Corner: number of files. Circles: steps, below.",
            12,
            GREY,
        ),
        f'<rect x="16" y="66" width="{WIDTH - 32}" height="44" rx="6" fill="#fff6e0" stroke="#b9902f"/>',
        _text(26, 85, "bundles/", 13.5, font_weight="bold"),
        _text(
            26,
            102,
            "train.json, evaluate.json, inference.json: JSON that wires the three packages by name;"
            " python -m monai.bundle run starts here",
            11.5,
            GREY,
        ),
    ]
    for panel in PANELS:
        inside = [box for name, box in boxes.items() if _package(name) == panel.package]
        height = max(box.y + box.height for box in inside) + 12 - TOP
        parts += [
            f'<rect x="{panel.left}" y="{TOP}" width="{panel.width}" height="{height}" rx="8" fill="#fbfcfd"'
            f' stroke="{EDGE[panel.package]}" stroke-dasharray="5 4"/>',
            _text(panel.left + 12, TOP + 21, panel.says, 13, EDGE[panel.package], font_weight="bold"),
            _package_arrow("bundles", panel.package, f"M{panel.left + panel.width / 2},110 V{TOP - 3}"),
        ]
    left, right = PANELS
    beside, wall = TOP + 12, right.left + right.width
    parts += [
        _package_arrow("pipelines", "transforms", f"M{left.left + left.width},{beside} H{right.left - 3}"),
        _package_arrow("bundles", "networks", f"M{wall + 6},110 V{boxes['networks'].y + 30} H{wall + 3}"),
        *(_drawn_arrow(source, target, boxes) for source, target in sorted(edges)),
        *(_drawn_room(found[name], box) for name, box in boxes.items()),
    ]
    steps: dict[str, list[tuple[int, str]]] = {}
    for route in ROUTES:
        for number, (name, _) in enumerate(route.steps, start=1):
            steps.setdefault(room(name), []).append((number, route.colour))
    for name, circles in steps.items():
        box = boxes[name]
        for place, (number, colour) in enumerate(reversed(circles)):
            parts.append(_badge(box.x + box.width - 16 - 21 * place, box.y, number, colour))
    drawn, end = _drawn_routes(bottom + 28)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end:.0f}" width="{WIDTH}" height="{end:.0f}"'
            ' font-family="Helvetica, Arial, sans-serif" role="img">',
            "<title>The rooms of segbundles and their imports, with the ways of a CT, a patch and a metric</title>",
            f"<defs>{_tip('tip', LINE)}{_tip('dark', INK)}</defs>",
            f'<rect width="{WIDTH}" height="{end:.0f}" fill="#ffffff"/>',
            *parts,
            *drawn,
            "</svg>",
            "",
        ]
    )


def _tip(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
        f' markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0.5 L8,4 L0,7.5 z" fill="{colour}"/></marker>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MAP)
    path = parser.parse_args().output
    path.write_text(draw(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
