"""Checks what works on this machine, and says how to fix what does not.

python -m metarl.doctor

The exit code is 0 if everything required works; optional parts never change it.
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("doctor")  # before the imports, which take seconds

import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.table import Table
from rich.text import Text

from metarl.errors import MESSAGE_LIMIT, UserError, printable
from metarl.system.cache import cache_folder, has_home
from metarl.system.command_line import one_line_errors
from metarl.system.console import plain_console
from metarl.system.hardware import num_processors
from metarl.system.started import typed
from metarl.visual.rendering.backends import ADVICE, BACKENDS, Probe, find_backend, probe

PROJECT = "metarl"
COMMAND = typed("python -m metarl.doctor")
SHOWN = ("torch", "mujoco", "metaworld", "gymnasium", "numpy")
"""Packages whose versions affect results most."""
PATIENCE = 8.0
"""Seconds within which a back end must draw its first picture."""
ROOM = 1.0
"""GB that a few runs need for checkpoints and videos."""


class Verdict(Enum):
    """Consequence of a finding for training."""

    WORKS = "works"
    OPTIONAL = "optional"
    """It does not work; only the feature that its line names needs it."""
    FAILS = "FAILS"


STYLES = {Verdict.WORKS: "green", Verdict.OPTIONAL: "yellow", Verdict.FAILS: "bold red"}


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    verdict: Verdict
    what: str


# -- required --------------------------------------------------------------------------------------


def python() -> Finding:
    """Version of the interpreter."""
    version, wanted = platform.python_version(), metadata.metadata(PROJECT)["Requires-Python"]
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("Python", Verdict.WORKS, version)
    return Finding("Python", Verdict.FAILS, f"{version}, but {PROJECT} needs {wanted}")


def packages() -> Finding:
    """Versions of the installed packages, compared with those that the project requires."""
    needed = _requirements("")
    if wrong := {each: why for each in needed if (why := _mismatch(each))}:
        again = shlex.join(f"{each.name}{each.specifier}" for each in wrong)
        said = f"{'; '.join(wrong.values())}; try: pip install {again}"
        return Finding("packages", Verdict.FAILS, said)
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)
    return Finding("packages", Verdict.WORKS, f"all {len(needed)} as required: {shown}")


def tools() -> Finding:
    """Packages for tests, lint and type checks."""
    needed = _requirements("dev")
    wrong = list(filter(None, map(_mismatch, needed)))
    if wrong:
        text = f"{'; '.join(wrong)}; to run the tests: pip install -e '.[dev]'"
        return Finding("tools", Verdict.OPTIONAL, text)
    return Finding("tools", Verdict.WORKS, f"all {len(needed)} as required")


def _requirements(extra: str) -> list[Requirement]:
    """The requirements of one extra; '' stands for those of every install."""
    kept = []
    for line in metadata.requires(PROJECT) or []:
        one = Requirement(line)
        asked_by = [
            name for name in ("", extra) if not one.marker or one.marker.evaluate({"extra": name})
        ]
        if asked_by and asked_by[0] == extra:
            kept.append(one)
    return kept


def _mismatch(needed: Requirement) -> str:
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(version, prereleases=True):
        return ""
    return f"{needed.name} is {version}, not {needed.specifier}"


def physics() -> Finding:
    """A simulation step of MuJoCo."""
    try:
        import mujoco
    except Exception as error:
        chosen = os.environ.get("MUJOCO_GL")
        if not chosen:
            raise
        # MuJoCo loads OpenGL when it is imported.
        text = f"MUJOCO_GL={chosen} keeps MuJoCo from starting; unset it ({error})"
        return Finding("physics", Verdict.FAILS, text)

    model = mujoco.MjModel.from_xml_string(  # pyright: ignore[reportAttributeAccessIssue]
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    mujoco.mj_step(model, data)  # pyright: ignore[reportAttributeAccessIssue]
    if not data.qpos[2] < 0:
        return Finding("physics", Verdict.FAILS, f"nothing falls in MuJoCo {mujoco.__version__}")
    return Finding("physics", Verdict.WORKS, f"MuJoCo {mujoco.__version__} steps")


def compiler() -> Finding:
    """Numba's compiler, and the cache of what it compiled."""
    import numba

    if numba.njit(lambda number: number + 1)(1) != 2:
        return Finding("compiler", Verdict.FAILS, f"numba {numba.__version__} computes 1 + 1 wrong")
    works = f"numba {numba.__version__} compiles"
    folder = cache_folder()
    homeless = "" if has_home() else "; this user has no home folder"
    if _is_writable(folder):
        return Finding("compiler", Verdict.WORKS, f"{works} and keeps it in {folder}{homeless}")
    text = f"{works} anew each time: {folder} is not writable; set METARL_CACHE to one that is"
    return Finding("compiler", Verdict.OPTIONAL, f"{text}{homeless}")


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# -- hardware --------------------------------------------------------------------------------------


def processors() -> Finding:
    """Number of threads that may compute."""
    total = os.cpu_count() or 1
    return Finding("processors", Verdict.WORKS, f"{num_processors()} of {total} for this process")


def cuda() -> Finding:
    """GPUs that torch can use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("CUDA", Verdict.WORKS, f"{', '.join(names)} (CUDA {torch.version.cuda})")
    why = (
        f"torch {torch.__version__} is built without it"
        if torch.version.cuda is None
        else "torch finds no GPU that its driver supports"
    )
    return Finding("CUDA", Verdict.OPTIONAL, f"{why}; agents learn on the processors")


def gpu_rollouts() -> Finding:
    """MuJoCo Warp, which simulates thousands of worlds on a GPU."""
    import torch

    from metarl.system.hardware import INSTALL, default_device, missing_packages

    device = default_device()
    if missing := missing_packages(device):
        text = f"engine 'warp' needs {' and '.join(missing)}; in an environment of its own: "
        return Finding("GPU rollouts", Verdict.OPTIONAL, f"{text}{INSTALL}")
    import warp  # pyright: ignore[reportMissingImports]

    versions = f"MuJoCo Warp {metadata.version('mujoco-warp')}, Warp {warp.config.version}"
    wrong = [
        problem
        for line in metadata.requires("mujoco-warp") or []
        if (needed := Requirement(line)).name == "mujoco" and not needed.marker
        if (problem := _mismatch(needed))
    ]
    if wrong:
        text = f"{versions}, but {'; '.join(wrong)}; try: {INSTALL}"
        return Finding("GPU rollouts", Verdict.OPTIONAL, text)
    if device.type != "cuda":
        text = f"{versions}, on the processor only, as torch finds no GPU: good for tests"
        return Finding("GPU rollouts", Verdict.OPTIONAL, text)
    warp.config.quiet = True
    if not warp.is_conditional_graph_supported():
        text = f"{versions}, but the driver is older than CUDA 12.4: graphs are not captured whole"
        return Finding("GPU rollouts", Verdict.OPTIONAL, text)
    name = torch.cuda.get_device_name(device)
    return Finding("GPU rollouts", Verdict.WORKS, f"{versions} on {name}")


def disk() -> Finding:
    """Disk space for runs."""
    free = shutil.disk_usage(".").free / 1e9
    if free > ROOM:
        return Finding("disk", Verdict.WORKS, f"{free:,.0f} GB free in the current folder")
    return Finding("disk", Verdict.OPTIONAL, f"only {free:.1f} GB free in the current folder")


# -- pictures and videos ---------------------------------------------------------------------------


def rendering() -> Finding:
    """The back end that draws videos, if any works."""
    try:
        chosen = find_backend(patience=PATIENCE)
    except UserError as error:
        return Finding("rendering", Verdict.OPTIONAL, str(error).removesuffix(f"; {ADVICE}"))
    return Finding("rendering", Verdict.WORKS, f"videos are drawn with {chosen}")


def rendering_with(backend: str, found: Probe) -> Finding:
    """Result of probing one rendering back end."""
    verdict = Verdict.WORKS if found.works else Verdict.OPTIONAL
    return Finding(f"rendering: {backend}", verdict, found.reason or "draws")


def encoder() -> Finding:
    """The video encoder."""
    import av

    from metarl.visual.video import ENCODER

    try:
        av.Codec(ENCODER, "w")
    except ValueError:
        text = f"no videos: PyAV {av.__version__} lacks {ENCODER}; pip install --force-reinstall av"
        return Finding("video", Verdict.OPTIONAL, text)
    return Finding("video", Verdict.WORKS, f"PyAV {av.__version__} with {ENCODER}")


# -- all of it -------------------------------------------------------------------------------------


def examine() -> Iterator[Finding]:
    """Runs all checks; rendering back ends are probed in the background meanwhile."""
    with ThreadPoolExecutor(len(BACKENDS)) as pool:
        tried = pool.map(lambda backend: probe(backend, PATIENCE), BACKENDS)
        needed = {
            "Python": python, "packages": packages, "physics": physics, "compiler": compiler,
            "processors": processors, "disk": disk,
        }  # fmt: skip
        optional = {
            "CUDA": cuda, "GPU rollouts": gpu_rollouts, "video": encoder, "tools": tools,
        }  # fmt: skip
        for name, look in needed.items():
            yield _looked(name, look, Verdict.FAILS)
        for name, look in optional.items():
            yield _looked(name, look, Verdict.OPTIONAL)
        found = list(tried)
    yield rendering()
    yield from map(rendering_with, BACKENDS, found)


def _looked(name: str, look: Callable[[], Finding], otherwise: Verdict) -> Finding:
    """The result of a check; an exception counts as a finding too."""
    try:
        return look()
    except Exception as error:  # whatever a broken package raises when it is imported
        return Finding(name, otherwise, printable(f"{type(error).__name__}: {error}"))


def main(arguments: Sequence[str] = ()) -> int:
    """Prints all findings; returns the exit code."""
    if list(arguments) in (["-h"], ["--help"]):
        print(typed(__doc__ or ""))
        return 0
    if arguments:
        raise UserError(f"{arguments[0]!r} is one argument too many: {COMMAND} takes none")
    console = plain_console()
    findings = list(examine())
    if console.is_terminal:
        table = Table(box=None, show_header=False, pad_edge=False)
        for one in findings:
            verdict = Text(one.verdict.value, STYLES[one.verdict])
            table.add_row(one.name, verdict, printable(one.what, limit=MESSAGE_LIMIT))
        console.print(table)
    else:
        for one in findings:
            print(f"{one.name}: {one.verdict.value}: {printable(one.what)}")
    return int(any(one.verdict is Verdict.FAILS for one in findings))


if __name__ == "__main__":
    with one_line_errors("metarl.doctor"):
        sys.exit(main(sys.argv[1:]))
