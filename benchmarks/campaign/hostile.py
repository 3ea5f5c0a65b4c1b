"""Hostile files: pictures, archives, configs, names, modules of tasks and stored results.

Each is read or used in one iteration of training. It must be refused in one line, or work as a
person looking at it would expect; nothing may be written outside the folder.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.campaign.experiments import (
    CONFIG,
    EVALUATING,
    EXPERIMENTS,
    MODULE,
    PLAYED,
    RL2,
    RUN,
    USER_MODULE,
    Place,
    Trained,
)
from benchmarks.campaign.verdict import Ended, Verdict

COUNT = 360
PIXELS = 12
LEARNER = """
agent: {kind: prototypical, encoder: {kind: mlp, hidden_sizes: [4]}}
train: {tasks: 2, meta_batch_size: 1, updates_per_iteration: 2}
"""
FOLDERS = "env: {kind: folders, root: data, ways: 2, queries: 1, test_queries: 1, size: 8}"
OMNIGLOT = (
    "env: {kind: omniglot, root: data, num_train_classes: 8, ways: 2, queries: 1, test_queries: 1}"
)
Fake = bytes | np.ndarray
NAMES = (
    "../../x", "ABOVE/x", "..", ".", "", " ", "a/b", "a\nb", "a\tb", "é", "a" * 300, "-x", "CON",
    "\x1b[31mred", "$\\frac{", "[/bold]", "<script>alert(1)</script>", "\U0001f600", "²",
    "a\u202eb", "%s%n", "{0}", "~", "$HOME", "a;b", "null", "010", "2024-05-01", "no", "1e3",
)  # fmt: skip
"""Names for experiments, some of them special in YAML, shells, terminals or typesetting. ABOVE is
the path of a folder above."""
YAMLS: dict[str, str | bytes] = {
    "billion laughs": "".join(
        f"l{n}: &l{n} [{', '.join([f'*l{n - 1}' if n else 'x'] * 10)}]\n" for n in range(10)
    ),
    "an alias in itself": "env: &a {kind: bandit, x: *a}\n",
    "merged keys": "a: &a {kind: bandit}\nenv: {<<: *a}\nagent: {kind: rl2}\n",
    "python tag": "env: !!python/object/apply:os.system ['touch ../owned']\n",
    "python name": "env: !!python/name:os.system\n",
    "timestamp": "name: !!timestamp foo\n",
    "binary": "name: !!binary '====='\n",
    "int tag": "seed: !!int x\n",
    "float tag": "seed: !!float abc\n",
    "set": "env: !!set {kind, bandit}\n",
    "omap": "env: !!omap [kind: bandit, kind: point]\n",
    "unknown tag": "env: !mine {kind: bandit}\n",
    "deep lists": "env: " + "[" * 20_000 + "]" * 20_000,
    "deep mappings": "env: " + "{a: " * 5_000 + "1" + "}" * 5_000,
    "deep blocks": "\n".join(" " * n + "a:" for n in range(3_000)),
    "NUL": b"env: {kind: bandit\0}\n",
    "not UTF-8": b"\xff\xfe\xfa env",
    "UTF-16": "env: {kind: bandit}".encode("utf-16"),
    "mark": b"\xef\xbb\xbfseed: 2\n",
    "surrogate": 'name: "\\ud800"\n',
    "escape": 'name: "\\e[31m"\n',
    "twice": "seed: 1\nseed: 2\n",
    "twice inside": "env: {kind: bandit, num_arms: 2, num_arms: 3}\n",
    "5,000 digits": f"seed: {'9' * 5_000}\n",
    "huge exponent": "agent: {kind: rl2, learning_rate: 1.0e+999999999}\n",
    "sexagesimal": "seed: 190:20:30\n",
    "octal": "seed: 0o17\n",
    "leading zero": "seed: 010\n",
    "underscores": "seed: 1_0\n",
    "yes": "name: yes\n",
    "date": "name: 2024-05-01\n",
    "null key": "~: 1\n",
    "list key": "? [a, b]\n: 1\n",
    "mapping key": "? {a: 1}\n: 1\n",
    "number key": "1: 2\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "empty": "",
    "only a comment": "# nothing\n",
    "a list": "- env\n",
    "a text": "text\n",
    "tabs": "env:\n\tkind: bandit\n",
    "open": "env: {kind: bandit",
    "infinity": "agent: {kind: rl2, learning_rate: .inf}\n",
    "NaN": "agent: {kind: rl2, learning_rate: .nan}\n",
    "a long line": f"name: {'a' * 1_000_000}\n",
    "many keys": "".join(f"k{n}: 1\n" for n in range(50_000)),
    "no env": "agent: {kind: rl2}\n",
    "env is a list": "env: [kind, bandit]\n",
    "kind is a list": "env: {kind: [bandit]}\n",
    "kind is a mapping": "env: {kind: {a: b}}\n",
    "kind is null": "env: {kind: }\n",
}
MODULES = {
    "raises": "raise RuntimeError('no')",
    "raises ANSI": "raise RuntimeError('\\x1b[2J\\x1b[31m' + '[/bold]')",
    "raises 5 MB": "raise RuntimeError('x' * 5_000_000)",
    "raises many lines": "raise RuntimeError('a\\nb\\n' * 1000)",
    "exits": "import sys; sys.exit(3)",
    "exits with words": "import sys; sys.exit('no')",
    "exits with 0": "import sys; sys.exit()",
    "interrupts": "raise KeyboardInterrupt",
    "stops": "raise SystemExit",
    "generator exit": "raise GeneratorExit",
    "base exception": "class E(BaseException): pass\nraise E('x')",
    "unprintable": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E()",
    "syntax": "def f(:",
    "indentation": "if 1:\nx = 1",
    "NUL": "x = 1\0",
    "not UTF-8": "# \udcff",
    "coding": "# -*- coding: nonsense -*-",
    "recursion": "def f(): f()\nf()",
    "memory": "x = bytearray(2**45)",
    "deep": "x = " + "(" * 500 + ")" * 500,
    "missing import": "import no_such_module_xyz",
    "own torch": "import sys; sys.modules['torch'] = None\nraise ImportError('x')",
    "empty": "",
    "prints 5 MB": USER_MODULE + "\nprint('x' * 5_000_000)\nraise ValueError",
    "closed output": USER_MODULE + "\nimport sys\nsys.stdout.close()",
    "no tasks": USER_MODULE + "\ntrain_tasks = []",
    "tasks are a text": USER_MODULE + "\ntrain_tasks = 'abc'",
    "tasks without end": USER_MODULE + "\nimport itertools\ntrain_tasks = None",
    "tasks raise": USER_MODULE
    + "\ndef g():\n    yield [1]\n    raise OSError('x')\ntrain_tasks = g()",
    "NaN task": USER_MODULE + "\ntrain_tasks = [[float('nan')]]",
    "huge task": USER_MODULE + "\ntrain_tasks = [[10**400]]",
    "objects": USER_MODULE + "\ntrain_tasks = [object()]",
    "shared tasks": USER_MODULE + "\ntest_tasks = train_tasks",
    "ragged tasks": USER_MODULE + "\ntrain_tasks = [[1, [2, 3]]]",
    "self-containing": USER_MODULE + "\na = []\na.append(a)\ntrain_tasks = [a]",
    "horizon 0": USER_MODULE + "\nhorizon = 0",
    "horizon text": USER_MODULE + "\nhorizon = '4'",
    "horizon NaN": USER_MODULE + "\nhorizon = float('nan')",
    "horizon huge": USER_MODULE + "\nhorizon = 10**15",
    "no make_env": USER_MODULE + "\ndel make_env",
    "make_env is 3": USER_MODULE + "\nmake_env = 3",
    "make_env of two": USER_MODULE + "\ndef make_env(a, b): return Find()",
    "make_env None": USER_MODULE + "\ndef make_env(): return None",
    "name object": USER_MODULE + "\nname = object()",
    "name ANSI": USER_MODULE + "\nname = '\\x1b[31m../../x'",
    "name fails": USER_MODULE + "\nclass N:\n    def __str__(self): raise ValueError\nname = N()",
    "name markup": USER_MODULE + "\nname = '[/bold] $\\\\frac{ <script>'",
    "spaces None": USER_MODULE + "\nFind.observation_space = None",
    "spaces text": USER_MODULE + "\nFind.action_space = spaces.Text(3)",
    "spaces infinite": USER_MODULE + "\nFind.action_space = spaces.Box(-np.inf, np.inf, (1,))",
    "spaces empty": USER_MODULE + "\nFind.action_space = spaces.Box(-1, 1, (0,))",
    "spaces huge": USER_MODULE + "\nFind.observation_space = spaces.Box(-1, 1, (10**9, 10**3))",
    "spaces float64": USER_MODULE + "\nFind.action_space = spaces.Box(-1, 1, (1,), np.float64)",
    "spaces float16": USER_MODULE + "\nFind.action_space = spaces.Box(-1, 1, (1,), np.float16)",
    "spaces integers": USER_MODULE + "\nFind.action_space = spaces.Box(-1, 1, (1,), np.int64)",
}


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Makes a hostile file and has the project read it."""
    kinds = (pictures, archive, yaml, module, names, pictures, archive, yaml, module, result)
    kind = kinds[number % len(kinds)]
    around = place.folder.parents[2]
    before = set(around.rglob("*")) - set(place.folder.rglob("*"))
    verdict = kind(rng, place)
    escaped = set(around.rglob("*")) - set(place.folder.rglob("*")) - before
    if escaped and verdict.good:
        where = sorted(os.path.relpath(path, place.folder) for path in escaped)
        return Verdict("accepted", verdict.attack, f"wrote outside its folder: {where[0]}")
    return verdict


def ended(run: Ended, attack: str, *, must_refuse: bool = False, stops: bool = False) -> Verdict:
    """Verdict on a command that must end in a refusal of one line or in a finished training.

    Args:
        run: end of the command.
        attack: the attack in words.
        must_refuse: whether only a refusal is right.
        stops: whether it may also end as by Ctrl-C, because some code pretends that.
    """
    codes = (0, 2, 130) if stops else (0, 2)
    if verdict := run.fault(attack, codes=codes) or run.refused(attack):
        return verdict
    return Verdict("accepted" if must_refuse else "survived", attack, "accepted without a word")


def train_on(place: Place, config: str | bytes, *flags: str) -> Ended:
    """Trains an iteration of an experiment."""
    content = config if isinstance(config, bytes) else config.encode("utf-8", "surrogateescape")
    (place.folder / CONFIG).write_bytes(content)
    return place.run("train.py", CONFIG, "--run-dir", RUN, *flags, patience=0.5)


# -- pictures in folders --------------------------------------------------------------------------


def grey(rng: random.Random) -> np.ndarray:
    """A random picture of dark ink on white."""
    noise = np.random.default_rng(rng.randrange(2**31)).integers(0, 2, (PIXELS, PIXELS))
    return (noise * 255).astype(np.uint8)


def encoded(pixels: np.ndarray, format_: str = "PNG") -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_)
    return file.getvalue()


def draw_classes(folder: Path, rng: random.Random, *, count: int = 6) -> list[Path]:
    """Writes folders of ordinary pictures; returns all files."""
    files = []
    for name in "abcdefgh"[:count]:
        (folder / name).mkdir(parents=True)
        for number in range(4):
            files.append(folder / name / f"{number}.png")
            files[-1].write_bytes(encoded(grey(rng)))
    return files


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(width: int, height: int, *, depth: int = 8, color: int = 0, pixels: bytes = b"") -> bytes:
    """A PNG that declares this size, regardless of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = zlib.compress(pixels, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def pictures(rng: random.Random, place: Place) -> Verdict:
    """Adds a hostile file or folder to ordinary ones, or encodes all pictures differently."""
    data = place.folder / "data"
    files = draw_classes(data, rng)
    file = rng.choice(files)
    content = file.read_bytes()
    cut = rng.randrange(len(content))
    single: dict[str, Callable[[], object]] = {
        "text": lambda: file.write_bytes(b"no picture"),
        "empty": lambda: file.write_bytes(b""),
        "cut": lambda: file.write_bytes(content[:cut]),
        "a bit": lambda: file.write_bytes(flipped(content, cut, rng)),
        "bomb": lambda: file.write_bytes(png(50_000, 50_000, pixels=b"\0" * 10**6)),
        "large": lambda: file.write_bytes(png(12_000, 12_000, pixels=b"\0" * 10**6)),
        "no width": lambda: file.write_bytes(png(0, 5)),
        "2^31 wide": lambda: file.write_bytes(png(2**31 - 1, 2**31 - 1)),
        "pipe": lambda: (file.unlink(), os.mkfifo(file)),
        "link to itself": lambda: (file.unlink(), file.symlink_to(file.name)),
        "dangling link": lambda: (file.unlink(), file.symlink_to("nowhere")),
        "/dev/zero": lambda: (file.unlink(), file.symlink_to("/dev/zero")),
        "link up": lambda: (file.parent / "up").symlink_to(".."),
        "folder": lambda: (file.unlink(), file.mkdir()),
        "SVG": lambda: file.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "EPS": lambda: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "GIF": lambda: file.write_bytes(encoded(grey(rng), "GIF")),
        "BMP": lambda: file.write_bytes(encoded(grey(rng), "BMP")),
        "TIFF": lambda: file.write_bytes(encoded(grey(rng), "TIFF")),
        "odd size": lambda: file.write_bytes(encoded(np.zeros((1, 700), np.uint8))),
        "odd name": lambda: file.rename(file.with_name("\x1b[31m\n\udcff.png")),
        "odd class": lambda: file.parent.rename(file.parent.with_name("[/b] $\\frac{\udcff\n")),
        "long text chunk": lambda: file.write_bytes(
            content[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 10**8)) + content[33:]
        ),
        "empty class": lambda: (data / "empty").mkdir(),
        "one picture": lambda: [path.unlink() for path in file.parent.iterdir() if path != file],
        "hidden": lambda: (data / "a" / ".DS_Store").write_bytes(b"x"),
        "archive": lambda: (data / "a" / "x.zip").write_bytes(b"PK\5\6" + bytes(18)),
        "no classes": lambda: (shutil.rmtree(data), data.mkdir()),
        "no folder": lambda: shutil.rmtree(data),
        "a file as root": lambda: (shutil.rmtree(data), data.write_bytes(b"x")),
        "two classes": lambda: [shutil.rmtree(data / name) for name in "cdef"],
        "pipe beside": lambda: os.mkfifo(data / "pipe"),
    }
    rewritten = ("16 bit", "black on nothing", "white on nothing", "palette", "1 bit", "colour")
    layouts = ("the same classes twice", "train and val", "linked classes")
    what = rng.choice([*single, *single, *rewritten, *rewritten, *layouts, *layouts])
    if what in single:
        single[what]()
        refuse = what in ("text", "empty", "no classes", "no folder", "a file as root", "folder")
        refuse = refuse and what != "folder"
        return ended(train_on(place, FOLDERS + LEARNER), f"picture: {what}", must_refuse=refuse)
    if what in layouts:
        return layout(what, place)
    return seen_alike(what, files, place)


def layout(what: str, place: Place) -> Verdict:
    """Folders laid out in other ways."""
    data = place.folder / "data"
    store = place.folder / "store"
    data.rename(store)
    data.mkdir()
    if what == "linked classes":
        for folder in sorted(store.iterdir()):
            (data / folder.name).symlink_to(folder)
        plain = train_on(place, FOLDERS.replace("data", "store") + LEARNER)
        (place.folder / RUN).rename(place.folder / "plain")
        run = train_on(place, FOLDERS + LEARNER)
        verdict = ended(run, f"folders: {what}")
        return verdict if not verdict.good or plain.code else same_bits(place, verdict)
    splits = ("train", "test") if what == "the same classes twice" else ("train", "val")
    for split in splits:
        for folder in sorted(store.iterdir()):
            if what == "train and val" and (folder.name < "d") != (split == "train"):
                continue
            shutil.copytree(folder, data / split / folder.name)
    run = train_on(place, FOLDERS + LEARNER)
    return ended(run, f"folders: {what}", must_refuse=what == "the same classes twice")


def same_bits(place: Place, verdict: Verdict) -> Verdict:
    """Compares the run with the one on ordinary pictures."""
    plain, run = (Trained.read(place.folder / name) for name in ("plain", RUN))
    difference = plain.tensors_differ(run)
    return Verdict("accepted" if difference else "survived", verdict.attack, difference)


def seen_alike(what: str, files: list[Path], place: Place) -> Verdict:
    """Re-encodes the pictures: they must be refused, or give the same bits."""
    plain = train_on(place, FOLDERS + LEARNER)
    if plain.code != 0:
        return ended(plain, "ordinary pictures")
    (place.folder / RUN).rename(place.folder / "plain")
    for file in files:
        pixels = np.asarray(Image.open(file))
        if what == "16 bit":
            image = Image.fromarray(pixels.astype(np.uint16) * 257)
        elif what == "1 bit":
            image = Image.fromarray(pixels).convert("1")
        elif what == "palette":
            image = Image.fromarray(pixels).convert("P")
        elif what == "colour":
            image = Image.fromarray(pixels).convert("RGB")
        else:  # opaque pixels are ink; the colour of the others must not matter
            ink = 0 if what == "black on nothing" else 255
            seen = np.full((*pixels.shape, 4), ink, np.uint8)
            seen[..., 3] = 255 - pixels if ink == 0 else pixels
            image = Image.fromarray(seen)
        image.save(file)
    verdict = ended(train_on(place, FOLDERS + LEARNER), f"pictures: {what}")
    if verdict.kind != "survived":
        return verdict
    if what != "white on nothing":  # whose background is undefined, but not all equal
        return same_bits(place, verdict)
    for file in files:
        Image.fromarray(np.full((PIXELS, PIXELS), 255, np.uint8)).save(file)
    (place.folder / RUN).rename(place.folder / "seen")
    train_on(place, FOLDERS + LEARNER)
    seen, blank = (Trained.read(place.folder / name) for name in ("seen", RUN))
    alike = not seen.tensors_differ(blank)
    return Verdict("accepted" if alike else "survived", verdict.attack, "all ink is lost")


def flipped(content: bytes, at: int, rng: random.Random) -> bytes:
    """The content with one bit flipped at a position."""
    changed = content[at] ^ (1 << rng.randrange(8))
    return content[:at] + bytes([changed]) + content[at + 1 :]


# -- archives -------------------------------------------------------------------------------------


def draw_archives(data: Path, rng: random.Random) -> None:
    """Writes two archives like Omniglot's: six characters for training, six others for testing."""
    data.mkdir(parents=True)
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(data / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            for number in range(6):
                for image in range(3):
                    name = f"{part}/Alphabet/character{number:02}/{image}.png"
                    opened.writestr(name, encoded(255 - grey(rng)))


def archive(rng: random.Random, place: Place) -> Verdict:
    """Omniglot's two archives, one of them hostile."""
    data = place.folder / "data"
    draw_archives(data, rng)
    file = data / rng.choice(["images_background.zip", "images_evaluation.zip"])
    content = file.read_bytes()
    inside = f"{file.stem}/Alphabet/character99"
    at = rng.randrange(len(content))

    def add(name: str, picture: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
        with warnings.catch_warnings(), zipfile.ZipFile(file, "a", method) as opened:
            warnings.simplefilter("ignore")  # about duplicate names
            opened.writestr(name, picture)

    def patch(position: int, value: bytes) -> None:
        """Changes a field of every entry in the central directory and every local header."""
        changed = bytearray(content)
        for mark, offset in ((b"PK\1\2", position), (b"PK\3\4", position - 2)):
            start = changed.find(mark)
            while start >= 0:
                changed[start + offset : start + offset + len(value)] = value
                start = changed.find(mark, start + 4)
        file.write_bytes(changed)

    def bomb() -> None:
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened,
            opened.open(f"{inside}/0.png", "w") as entry,
        ):
            for _ in range(700):
                entry.write(bytes(2**20))

    def many() -> None:
        with zipfile.ZipFile(file, "w") as opened:
            for number in range(20_000):
                opened.writestr(f"{inside}/{number}", b"x")

    cases: dict[str, Callable[[], object]] = {
        "encrypted": lambda: patch(8, b"\1\0"),
        "unknown method": lambda: patch(10, struct.pack("<H", rng.choice([1, 6, 9, 95, 98, 99]))),
        "newer version": lambda: patch(6, b"\xff\0"),
        "bomb": bomb,
        "many files": many,
        "bzip2": lambda: add(f"{inside}/0.png", encoded(grey(rng)), zipfile.ZIP_BZIP2),
        "LZMA": lambda: add(f"{inside}/0.png", encoded(grey(rng)), zipfile.ZIP_LZMA),
        "picture bomb": lambda: add(f"{inside}/0.png", png(50_000, 50_000, pixels=bytes(10**6))),
        "no picture": lambda: add(f"{inside}/0.png", b"text"),
        "path up": lambda: add("../../../../up/0.png", encoded(grey(rng))),
        "absolute path": lambda: add(f"{place.folder.parent}/up/0.png", encoded(grey(rng))),
        "odd name": lambda: add(f"{inside}/\x1b[31m\n[/b].png", b"text"),
        "name that is no UTF-8": lambda: (
            add(f"{inside}/XX.png", b"text"),
            file.write_bytes(file.read_bytes().replace(b"XX.png", b"\xff\xfe.png")),
        ),
        "the same twice": lambda: add(
            f"{file.stem}/Alphabet/character00/0.png", encoded(grey(rng))
        ),
        "cut": lambda: file.write_bytes(content[:at]),
        "a bit": lambda: file.write_bytes(flipped(content, at, rng)),
        "zeros": lambda: file.write_bytes(content[:at] + bytes(40) + content[at + 40 :]),
        "text": lambda: file.write_bytes(b"no archive"),
        "empty": lambda: file.write_bytes(b""),
        "empty archive": lambda: file.write_bytes(b"PK\5\6" + bytes(18)),
        "pipe": lambda: (file.unlink(), os.mkfifo(file)),
        "/dev/zero": lambda: (file.unlink(), file.symlink_to("/dev/zero")),
        "folder": lambda: (file.unlink(), file.mkdir()),
        "gone": lambda: file.unlink(),
        "text before": lambda: file.write_bytes(b"#!/bin/sh\n" + content),
        "long comment": lambda: file.write_bytes(content[:-2] + b"\xff\xff" + bytes(65535)),
        "flat": lambda: add("0.png", encoded(grey(rng))),
        "hidden": lambda: add("__MACOSX/._0.png", b"text"),
    }
    what = rng.choice(list(cases))
    cases[what]()
    refuse = what in ("text", "empty", "gone", "encrypted", "no picture", "pipe", "picture bomb")
    run = train_on(place, OMNIGLOT + LEARNER)
    return ended(run, f"archive: {what}", must_refuse=refuse)


# -- configs, names, modules, stored results ------------------------------------------------------


def yaml(rng: random.Random, place: Place) -> Verdict:
    """A hostile config file, alone or joined to a valid one."""
    what = rng.choice(list(YAMLS))
    text = YAMLS[what]
    content = text if isinstance(text, bytes) else text.encode()
    whole = EXPERIMENTS["rl2_bandit"].encode()
    where = rng.choice(["alone", "before", "after"])
    content = {"alone": content, "before": content + whole, "after": whole + content}[where]
    run = train_on(place, content)
    refuse = what in ("twice", "twice inside", "python tag", "python name", "billion laughs")
    return ended(run, f"YAML: {what} ({where})", must_refuse=refuse)


def names(rng: random.Random, place: Place) -> Verdict:
    """Hostile names on the command line and in configs."""
    name = rng.choice(NAMES).replace("ABOVE", str(place.folder.parent))
    (place.folder / CONFIG).write_text(EXPERIMENTS["rl2_bandit"], encoding="utf-8")
    how = rng.choice(["--name", "name:", "--run-dir", "config", "--resume", "--seed", "evaluate"])
    arguments = ["train.py", CONFIG, "--train.env-steps=24"]
    if how == "name:":
        with (place.folder / CONFIG).open("a", encoding="utf-8") as file:
            file.write(f"name: {json.dumps(name)}\n")
    elif how in ("--name", "--seed"):
        arguments.append(f"{how}={name}")
    elif how == "--run-dir":  # users may put the folder anywhere
        name = name if not name.startswith(("/", "..")) else f"x{name}"
        arguments.append(f"{how}={name}")
    else:
        arguments = {
            "config": ["train.py", name],
            "--resume": ["train.py", f"--resume={name}"],
            "evaluate": ["evaluate.py", name],
        }[how]
    verdict = ended(place.run(*arguments, patience=0.5), f"name, {how} {name[:20]!r}")
    if verdict.kind == "survived" and how in ("--name", "name:"):
        # The trained run must be found again.
        (run,) = (path.parent for path in place.folder.rglob("metrics.jsonl"))
        folder = str(run.relative_to(place.folder))
        again = place.run("evaluate.py", folder, "--episodes", "2", "--report")
        return ended(again, f"{verdict.attack}, evaluated")
    return verdict


def module(rng: random.Random, place: Place) -> Verdict:
    """A hostile module of tasks."""
    what = rng.choice(list(MODULES))
    workers = rng.choice([0, 0, 2])
    (place.folder / MODULE).write_bytes(MODULES[what].encode("utf-8", "surrogateescape"))
    config = (
        f"env: {{kind: gymnasium, module: {MODULE}, num_workers: {workers}}}\n"
        f"agent: {RL2}\n{PLAYED % (32, 2)}\n"
    )
    attack = f"module: {what}, {workers} workers"
    verdict = ended(train_on(place, config), attack, stops=what == "interrupts")
    trained = (place.folder / RUN / "checkpoints" / "32").exists()
    if verdict.kind == "survived" and not trained and what != "interrupts":
        return Verdict("accepted", attack, "ends as if all was well, and nothing is trained")
    return verdict


def result(rng: random.Random, place: Place) -> Verdict:
    """A stored evaluation from somebody else."""
    experiment = rng.choice(["rl2_bandit", "maml_sinusoid"])
    arguments = ["evaluate.py", RUN, *EVALUATING[experiment]]
    reference = place.base / "references" / f"{experiment}-hostile"
    if not reference.exists():
        shutil.copytree(place.reference(experiment).folder, reference)
        place.run(*arguments, cwd=reference)
    shutil.copytree(reference, place.folder, dirs_exist_ok=True)
    (file,) = (place.folder / RUN / "eval").glob("*.json")
    stored = json.loads(file.read_bytes())
    tasks = stored["per_task"]
    measure = rng.choice(sorted(tasks["scores"]))
    cases: dict[str, Callable[[], object]] = {
        "names": lambda: stored.update(
            experiment=rng.choice(NAMES), agent=rng.choice(NAMES), distribution=rng.choice(NAMES)
        ),
        "class names": lambda: tasks.update(env_name=[rng.choice(NAMES)] * 5),
        "long names": lambda: stored.update(distribution="x" * 5_000_000),
        "no scores": lambda: tasks.update(scores={}),
        "a measure gone": lambda: tasks["scores"].pop(measure),
        "a measure more": lambda: tasks["scores"].update(other=tasks["scores"][measure]),
        "a task gone": lambda: tasks["scores"][measure].pop(),
        "ragged": lambda: tasks["scores"][measure][0].append(1.0),
        "huge": lambda: tasks["scores"][measure].__setitem__(0, [1e308] * 2),
        "texts": lambda: tasks["scores"][measure].__setitem__(0, ["a", "b"]),
        "no tasks": lambda: tasks.update(env_name=[], scores={measure: []}),
        "environment": lambda: stored.update(environment=["x"]),
        "command": lambda: stored["environment"].update(command="\x1b[2J" * 1000),
        "options": lambda: stored.update(options={}),
        "threshold": lambda: stored["options"].update(threshold="x", seed=-1),
        "horizon": lambda: stored.update(horizon=-5, slots_per_task=0),
    }
    what = rng.choice([*cases, "NaN", "deep", "digits", "keys twice"])
    if what in cases:
        cases[what]()
        file.write_text(json.dumps(stored), encoding="utf-8")
    else:
        texts = {
            "NaN": json.dumps(stored).replace("0.", "NaN, 0.", 1),
            "deep": '{"per_task": ' + "[" * 200_000 + "]" * 200_000 + "}",
            "digits": json.dumps(stored).replace('"seed": ', '"seed": ' + "9" * 6_000, 1),
            "keys twice": json.dumps(stored)[:-1] + ', "per_task": {}}',
        }
        file.write_text(texts[what], encoding="utf-8")
    read = place.run(*arguments, "--stored", *rng.choice([[], ["--report"]]))
    return ended(read, f"stored evaluation of {experiment}: {what}")
