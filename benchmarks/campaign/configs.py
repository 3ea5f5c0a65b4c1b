"""Every experiment of configs/, made tiny, with a changed key or value.

A run must train its iteration or be refused in one line. Configs without a meaning must be refused:
those with keys that are unknown, given twice or in the wrong section.
"""

from __future__ import annotations

import random
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from benchmarks.campaign.experiments import CONFIG, RUN, Place, checkpoint_names
from benchmarks.campaign.hostile import draw_archives
from benchmarks.campaign.verdict import Verdict

COUNT = 560
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "env": {
        "metaworld": {"num_goals": 2, "horizon": 8, "num_threads": 1},
        "locomotion": {"horizon": 8, "num_threads": 1},
        "point": {"horizon": 8, "num_train_tasks": 20, "num_test_tasks": 5},
        "bandit": {"num_train_tasks": 20, "num_test_tasks": 5},
        "tabular": {"num_train_tasks": 20, "num_test_tasks": 5},
        "sinusoid": {"num_train_tasks": 20, "num_test_tasks": 5},
        "glyphs": {
            "num_train_classes": 10,
            "num_test_classes": 6,
            "images_per_class": 6,
            "queries": 2,
            "test_queries": 2,
        },
        "digits": {"num_glyphs": 10, "train_ways": None, "shots": 1, "queries": 2},
        "omniglot": {"num_train_classes": 8, "ways": 2, "queries": 1, "test_queries": 1},
    },
    "agent": {
        "rl2": {"hidden_size": 16, "encoder_sizes": [], "epochs": 1, "num_minibatches": 1},
        "maml_trpo": {"hidden_sizes": [8], "episodes_per_step": 2},
        "promp": {"hidden_sizes": [8], "episodes_per_step": 2},
        "maml": {"steps": 1, "evaluation_steps": 1},
        "reptile": {"steps": 1, "evaluation_steps": 1},
        "prototypical": {},
        "matching": {},
    },
}
TINY_TRAINING = {
    True: {"env_steps": 1, "meta_batch_size": 2, "episodes_per_trial": 4},
    False: {"tasks": 1, "meta_batch_size": 1, "updates_per_iteration": 1},
}
"""Settings of tiny runs, by whether an environment is played."""
WORK = (
    "env_steps", "tasks", "updates_per_iteration", "epochs", "steps", "evaluation_steps",
    "num_minibatches", "meta_batch_size", "episodes_per_trial", "meta_batch_size", "num_goals",
    "num_glyphs", "num_threads", "num_train_classes", "num_test_classes", "images_per_class",
    "horizon", "benchmark", "cg_iterations", "line_search_steps", "inner_batch", "strokes",
)  # fmt: skip
"""Keys that determine the amount of work: large values are valid, and would take too long."""
SMALL = (-1, 0, 1, 2, 3, 5, 7)
LARGE = (2**40, 2**63, 10**30, -(2**63))
FLOATS = (
    0.0,
    -0.0,
    1e-300,
    1e-9,
    0.5,
    1.0,
    1.5,
    -0.5,
    1e9,
    1e29,
    1e300,
    float("nan"),
    float("inf"),
)
OTHERS = (
    None, True, False, "", "x", "3", "1e3", "\x1b[31m", "a" * 10_000, [], [1], [-1], ["x"], [[]],
    {}, {"kind": "x"}, {"a": {"b": 1}}, [0] * 100,
)  # fmt: skip


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Changes one of the configs and trains an iteration with it."""
    paths = sorted((place.project / "configs").glob("*.yaml"))
    path = paths[number % len(paths)]
    values = all_values(path, place)
    if "omniglot" in path.name:
        draw_archives(place.folder / "data" / "omniglot", random.Random(0))
    how = rng.choice(["value"] * 7 + ["gone", "twice", "typo", "unknown", "moved", "kind", "two"])
    flags: list[str] = []
    must_refuse = False
    text = None
    if how in ("value", "two"):
        done = change(values, rng)
        if how == "two":
            done += f" and {change(values, rng)}"
        elif rng.random() < 0.3:  # the same on the command line
            values = all_values(path, place)
            key, _, value = done.partition(": ")
            name = key.replace("_", "-") if rng.random() < 0.5 else key
            flags = [f"--{name}={value}"]
    else:
        key = rng.choice([key for key in leaves(values) if key[-1] not in WORK])
        where, name = inside(values, key), key[-1]
        done = f"{how} {'.'.join(map(str, key))}"
        must_refuse = how in ("twice", "typo", "unknown", "moved")
        if how == "gone":
            del where[name]
        elif how == "typo":
            where[f"{name}x"] = where.pop(name)
        elif how == "unknown":
            where[rng.choice(["unknown", "", "²", "a b", "__class__", "model_config"])] = 1
        elif how == "moved":
            section = {"env": "train", "agent": "env", "train": "agent"}.get(key[0], "env")
            if name in values[section]:
                name = f"moved_{name}"
            values[section][name] = where.pop(key[-1])
        elif how == "kind":
            section = rng.choice(["env", "agent"])
            known = sorted(TINY[section])
            values[section]["kind"] = rng.choice([*known, "warp", "gymnasium", "folders", ""])
            done = f"{section}.kind {values[section]['kind']!r}"
        else:
            text = twice(values, key)
    if text is None:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (place.folder / CONFIG).write_text(text, encoding="utf-8", errors="surrogatepass")
    attack_said = f"{path.name}: {done[:120]}{' as a flag' if flags else ''}"
    ended = place.run("train.py", CONFIG, "--run-dir", RUN, *flags)
    if verdict := ended.fault(attack_said) or ended.refused(attack_said):
        return verdict
    if must_refuse:
        return Verdict("accepted", attack_said, "trains without a word")
    if not checkpoint_names(place.folder / RUN):
        return Verdict("accepted", attack_said, "ends as if all was well, and nothing is saved")
    return Verdict("survived", attack_said)


def all_values(path: Path, place: Place) -> dict[str, Any]:
    """All values of a config made tiny, as its run stores them.

    Raises:
        RuntimeError: the tiny config cannot be trained.
    """
    folder = place.base / "references" / path.name
    if not folder.exists():
        folder.mkdir(parents=True)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, kinds in TINY.items():
            values[section] |= kinds[values[section]["kind"]]
        values.setdefault("train", {})
        values["train"] |= TINY_TRAINING["env_steps" in values["train"]]
        if values["env"].get("benchmark") == "ML10":
            values["train"]["meta_batch_size"] = 10  # one of each class
        if "encoder" in values["agent"]:
            encoder = values["agent"]["encoder"]
            encoder |= {"hidden_sizes": [4]} if encoder["kind"] == "mlp" else {"filters": 2}
        if values["env"]["kind"] == "omniglot":
            draw_archives(folder / "data" / "omniglot", random.Random(0))
        (folder / CONFIG).write_text(yaml.safe_dump(values), encoding="utf-8")
        ended = place.run("train.py", CONFIG, "--run-dir", RUN, cwd=folder)
        if ended.code != 0:
            raise RuntimeError(f"{path.name}, made tiny, cannot be trained: {ended.err[-500:]}")
    return yaml.safe_load((folder / RUN / "config.yaml").read_text(encoding="utf-8"))


def change(values: dict[str, Any], rng: random.Random) -> str:
    """Gives a key another value; returns the change in words."""
    key = rng.choice(leaves(values))
    where, name = inside(values, key), key[-1]
    old = where[name]
    choices: list[Any] = [rng.choice(OTHERS), rng.choice(FLOATS), rng.choice(SMALL)]
    choices += [rng.choice(SMALL)] * 2 if isinstance(old, int) else [rng.choice(FLOATS)] * 2
    if name not in WORK:
        choices.append(rng.choice(LARGE))
    if isinstance(old, str):
        choices += [old.upper(), f"{old} ", f"{old}x", rng.choice(SMALL)]
    value = rng.choice(choices)
    if name in WORK and (value is None or (isinstance(value, float) and value > 10)):
        value = -3  # None would mean the default, a whole training
    where[name] = deepcopy(value)
    return f"{'.'.join(map(str, key))}: {value}"


def leaves(values: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of keys to all values."""
    if isinstance(values, dict) and values:
        return [leaf for k, v in values.items() for leaf in leaves(v, (*above, k))]
    return [above]


def inside(values: dict[str, Any], key: tuple[Any, ...]) -> dict[str, Any]:
    """The mapping that contains a key."""
    for name in key[:-1]:
        values = values[name]
    return values


def twice(values: dict[str, Any], key: tuple[Any, ...]) -> str:
    """The config as text, with one key given twice."""
    lines = yaml.safe_dump(values, sort_keys=False, width=10**6).splitlines()
    indent = "  " * (len(key) - 1)
    begun = False
    for number, line in enumerate(lines):
        begun = begun or len(key) == 1 or line.startswith(f"{key[0]}:")
        if begun and re.match(rf"{indent}{re.escape(str(key[-1]))}:", line):
            lines.insert(number, f"{indent}{key[-1]}: 1")
            break
    return "\n".join(lines) + "\n"
