"""Draw the example images and write the example data beside them; `tests/test_example.py` says that they are current.

    python examples/make_example.py [FOLDER]

`shapes/` is what good KTO data looks like: drawn pictures, questions about them, and answers of people and of two
models, each labelled. `broken.jsonl` has one classic defect in each of its rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Size = tuple[int, int]
Row = dict[str, Any]

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
OTHER_COLOUR = {"red": "green", "green": "blue", "blue": "orange", "orange": "purple", "purple": "red"}
ROTATED = 6  # EXIF orientation: stored lying on its side, to be turned by 90 degrees when shown
SYSTEM_PROMPT = "You describe pictures for people who cannot see them. Be exact and brief."


@dataclass(frozen=True)
class Scene:
    """A picture of `count` like shapes on a ground; `size` is (width, height) as it is seen."""

    file: str
    size: Size
    ground: str
    count: int
    colour: str
    shape: str
    orientation: int = 1

    @property
    def image(self) -> str:
        return f"images/{self.file}"

    def counted(self, number: int | None = None) -> str:
        number = self.count if number is None else number
        return f"{NUMBERS[number]} {self.colour} {self.shape}{'' if number == 1 else 's'}"


TRAIN_SCENES = (
    Scene("01.png", (96, 64), "white", 1, "red", "square"),
    Scene("02.png", (160, 120), "yellow", 2, "blue", "circle"),
    Scene("03.jpg", (400, 300), "grey", 3, "green", "triangle"),
    Scene("04.png", (64, 64), "black", 1, "orange", "circle"),
    Scene("05.png", (240, 120), "white", 5, "purple", "square"),
    Scene("06.jpg", (200, 320), "pink", 4, "blue", "triangle", ROTATED),
    Scene("07.png", (128, 128), "transparent", 2, "red", "triangle"),
    Scene("08.png", (300, 100), "yellow", 6, "green", "circle"),
    Scene("09.jpg", (320, 240), "black", 2, "purple", "circle"),
    Scene("10.png", (100, 220), "white", 3, "orange", "square"),
    Scene("11.png", (180, 180), "pink", 4, "red", "circle"),
    Scene("12.png", (256, 192), "grey", 1, "blue", "square"),
)
EVAL_SCENES = (
    Scene("21.png", (120, 90), "white", 2, "green", "square"),
    Scene("22.jpg", (240, 320), "yellow", 3, "red", "circle"),
    Scene("23.png", (200, 200), "black", 1, "purple", "triangle"),
    Scene("24.png", (280, 140), "pink", 5, "orange", "triangle"),
)

TRAIN_FACTS = (
    ("How many sides has a triangle?", "Three.", "A triangle has four sides."),
    ("Name a shape without corners.", "A circle.", "A square."),
    ("Which colour do blue and yellow make?", "Green, when paints are mixed.", "They make red."),
    ("Is every square a rectangle?", "Yes: all its corners are right angles.", "No, never."),
    ("How many corners have two squares together?", "Eight.", "Four, I think."),
    ("Write the word 'circle' backwards.", "elcric", "circle"),
    ("Which is larger, three or five?", "Five.", "Three is larger than five."),
    ("What is the opposite of black?", "White.", "I cannot answer questions about colours."),
)
EVAL_FACTS = (
    ("How many sides has a square?", "Four.", "Three."),
    ("Which colour do red and yellow make?", "Orange.", "Purple."),
)

# Who answered, and whether the answer was right: 7 of 11 are, more of the people's than of model-b's.
VERDICTS = (
    ("annotators", True),
    ("model-a", True),
    ("model-b", False),
    ("annotators", True),
    ("model-a", False),
    ("model-b", True),
    ("annotators", True),
    ("model-a", True),
    ("model-b", False),
    ("annotators", False),
    ("model-a", True),
)


# ---- pictures


def draw(scene: Scene) -> Image.Image:
    """The picture as it is seen: its shapes side by side in a grid of nearly square cells."""
    width, height = scene.size
    if scene.ground == "transparent":
        image = Image.new("RGBA", scene.size, (255, 255, 255, 0))
    else:
        image = Image.new("RGB", scene.size, scene.ground)
    columns = max(1, min(scene.count, round((scene.count * width / height) ** 0.5)))
    rows = -(-scene.count // columns)
    radius = min(width / columns, height / rows) * 0.36
    pen = ImageDraw.Draw(image)
    for index in range(scene.count):
        x = (index % columns + 0.5) * width / columns
        y = (index // columns + 0.5) * height / rows
        _draw_shape(pen, scene, (x, y), radius)
    return image


def _draw_shape(pen: ImageDraw.ImageDraw, scene: Scene, centre: tuple[float, float], radius: float) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if scene.shape == "circle":
        pen.ellipse(box, fill=scene.colour)
    elif scene.shape == "square":
        pen.rectangle(box, fill=scene.colour)
    else:
        pen.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=scene.colour)


def save(scene: Scene, folder: Path) -> None:
    """Write the picture, lying on its side with an EXIF note where the scene asks for that."""
    image = draw(scene)
    exif = Image.Exif()
    if scene.orientation == ROTATED:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = ROTATED
    image.save(folder / scene.image, exif=exif)


# ---- rows


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def counting(scene: Scene, right: bool) -> Row:
    number = scene.count if right else scene.count + 1
    question = f"<image>How many {scene.shape}s are there?"
    answer = f"There {'is' if number == 1 else 'are'} {scene.counted(number)}."
    return {"messages": [message("user", question), message("assistant", answer)], "images": [scene.image]}


def describing(scene: Scene, right: bool) -> Row:
    colour = scene.colour if right else OTHER_COLOUR[scene.colour]
    answer = f"I see {scene.counted().replace(scene.colour, colour)} on a {scene.ground} ground."
    turns = [message("system", SYSTEM_PROMPT), message("user", "<image>Describe the picture.")]
    return {"messages": [*turns, message("assistant", answer)], "images": [scene.image]}


def comparing(first: Scene, second: Scene, right: bool) -> Row:
    first_has_more = (first.count >= second.count) == right
    answer = f"The {'first' if first_has_more else 'second'}: {first.counted()} against {second.counted()}."
    question = "Picture one: <image> Picture two: <image> Which shows more shapes?"
    return {
        "messages": [message("user", question), message("assistant", answer)],
        "images": [first.image, second.image],
    }


def conversing(scene: Scene, right: bool) -> Row:
    colour = scene.colour if right else OTHER_COLOUR[scene.colour]
    turns = [
        message("user", "<image>What shapes do you see?"),
        message("assistant", f"Only {scene.shape}s."),
        message("user", "And what colour are they?"),
        message("assistant", f"All of them are {colour}."),
    ]
    return {"messages": turns, "images": [scene.image]}


def stating(fact: tuple[str, str, str], right: bool) -> Row:
    question, good, bad = fact
    return {"messages": [message("user", question), message("assistant", good if right else bad)]}


def rows(name: str, scenes: tuple[Scene, ...], facts: tuple[tuple[str, str, str], ...]) -> Iterator[Row]:
    """The rows of one split: text-only and image rows in turn, each with label, source and id."""
    verdicts = cycle(VERDICTS)
    number = 0

    def labelled(make: Callable[..., Row], *about: Any) -> Row:
        nonlocal number
        number += 1
        source, right = next(verdicts)
        return {"id": f"{name}-{number:03}", **make(*about, right), "label": right, "source": source}

    for index, (scene, following) in enumerate(pairwise([*scenes, scenes[0]])):
        yield labelled(counting, scene)
        yield labelled(describing, scene)
        if index % 3 == 1:
            yield labelled(comparing, scene, following)
        if index % 3 == 2:
            yield labelled(conversing, scene)
        if index < len(facts):
            yield labelled(stating, facts[index])


def broken_lines() -> Iterator[str]:
    """One line for each classic defect, the defect in its `id`."""
    picture = f"shapes/{TRAIN_SCENES[0].image}"

    def line(name: str, question: str = "How many?", answer: str = "One.", **fields: Any) -> str:
        turns = [message("user", question), message("assistant", answer)]
        row = {"id": name, "messages": turns, "label": True, **fields}
        return json.dumps({key: value for key, value in row.items() if value is not None})

    yield line("good", "<image>How many squares are there?", "One red square.", images=[picture])
    yield line("label is a string", "Is a circle round?", "No.", label="false")
    yield line("label is misspelt", "Is a square round?", "No.", label=None, lable=True)
    yield line("the answer is empty", "Describe a circle.", "  ")
    yield line("images is a string", "<image>Which colour?", "Red.", images=picture)
    yield line("the image is not there", "<image>Which shape?", "A square.", images=["shapes/images/1.png"])
    yield line("two placeholders, one image", "<image><image>Same?", "Yes.", images=[picture])
    yield line("the path leaves the image root", "<image>Who?", "Nobody.", images=["../../../etc/passwd"])
    yield line("the image is on the web", "<image>Where?", "There.", images=["https://example.com/square.png"])
    yield line("the answer is missing", messages=[message("user", "Hello?"), message("user", "Is anybody there?")])
    yield line("a role of another format", messages=[message("human", "Hello!"), message("assistant", "Hi.")])
    yield line("a control token in the text", "Say it.<|im_end|>", "It.")
    yield line("labelled twice", "Is three odd?", "Yes.")[:-1] + ', "label": false}'
    yield line("desirable", "Is the answer good?", "It depends.")
    yield line("undesirable, though the same", "Is the answer good?", "It depends.", label=False)
    yield line("cut off", "Where does it end?", "In the middle of")[:-24]


def write(folder: Path) -> None:
    """Write `shapes/` and `broken.jsonl` into `folder`."""
    shapes = folder / "shapes"
    (shapes / "images").mkdir(parents=True, exist_ok=True)
    for scene in (*TRAIN_SCENES, *EVAL_SCENES):
        save(scene, shapes)
    for name, scenes, facts in (("train", TRAIN_SCENES, TRAIN_FACTS), ("eval", EVAL_SCENES, EVAL_FACTS)):
        _write_lines(shapes / f"{name}.jsonl", [json.dumps(row) for row in rows(name, scenes, facts)])
    _write_lines(folder / "broken.jsonl", list(broken_lines()))


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the example data anew.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    write(parser.parse_args().folder)
