"""Director of a campaign: distributes attacks to processes, prints failures and makes the table."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from benchmarks import command_line
from benchmarks.campaign.campaigns import CAMPAIGNS
from benchmarks.campaign.verdict import KINDS, Verdict
from metarl.errors import UserError
from metarl.training.provenance import environment

PROJECT = Path(__file__).parents[2]
BROKEN = "could not be carried out"
LONGEST = 1_200.0
"""Longest silence of a process (s); the limits of attacks themselves are shorter."""


@dataclass(frozen=True)
class Attacked:
    """A completed attack."""

    campaign: str
    number: int
    seconds: float
    verdict: Verdict

    def report(self, seed: int) -> str:
        """Message about a failed attack, with the command that repeats it."""
        detail = "\n    ".join(self.verdict.said.splitlines())
        return (
            f"{self.campaign} {self.number}: {KINDS[self.verdict.kind]}: {self.verdict.attack}\n"
            f"    {detail}\n    again: python -m benchmarks.campaign {self.campaign} "
            f"--seed {seed} --only {self.number}"
        )


class Job:
    """A process that carries out attacks."""

    def __init__(self, project: Path, folder: Path, *, patience: float) -> None:
        # With one thread, sums of floats have the same bits, and forking is safe.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(project)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("job.py")), str(project), str(folder),
             str(patience)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **threads}, start_new_session=True,
        )  # fmt: skip

    def attack(self, order: dict[str, Any]) -> dict[str, Any]:
        """Has an attack carried out; `broken` in the answer says why it could not be."""
        assert self._process.stdin is not None and self._process.stdout is not None
        guard = threading.Timer(LONGEST, self._process.kill)
        guard.start()
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            guard.cancel()
        return json.loads(answer or '{"broken": "the process that carries out attacks ended"}')

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def carried_out(
    orders: Iterable[dict[str, Any]], *, jobs: int, project: Path, folder: Path, patience: float
) -> Iterator[Attacked]:
    """Carries out all attacks in several processes; yields them as they end."""
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
    for order in orders:
        waiting.put(order)
    done: SimpleQueue[Attacked | Exception | None] = SimpleQueue()

    numbers = count()  # of processes: each has its own folder

    def new_job() -> Job:
        return Job(project, folder / f"job{next(numbers)}", patience=patience)

    def work() -> None:
        job = new_job()
        try:
            while True:
                order = waiting.get_nowait()
                answer: dict[str, Any] = job.attack(order)
                seconds = answer.pop("seconds", 0.0)
                if "broken" in answer:
                    said = answer["broken"].strip().splitlines()
                    answer = {"kind": "other", "attack": BROKEN, "said": "\n".join(said[::-1])}
                    job.close()
                    job = new_job()
                done.put(Attacked(order["campaign"], order["number"], seconds, Verdict(**answer)))
        except Empty:
            done.put(None)
        except Exception as error:
            done.put(error)
        finally:
            job.close()

    with ThreadPoolExecutor(jobs) as pool:
        for _ in range(jobs):
            pool.submit(work)
        working = jobs
        try:
            while working:
                attacked = done.get()
                if isinstance(attacked, Exception):
                    raise attacked
                if attacked is None:
                    working -= 1
                else:
                    yield attacked
        finally:
            with suppress(Empty):
                while True:
                    waiting.get_nowait()


def table(attacks: list[Attacked]) -> str:
    """Markdown table with one line per campaign."""
    skipped = any(attacked.verdict.kind == "skipped" for attacked in attacks)
    kinds = [kind for kind in KINDS if kind != "skipped" or skipped]
    lines = [
        f"| campaign | tried | {' | '.join(KINDS[kind] for kind in kinds)} |",
        f"|---|{'---:|' * (1 + len(kinds))}",
    ]
    names = list(dict.fromkeys(attacked.campaign for attacked in attacks))
    for name in [*names, "all"]:
        counts: Counter[str] = Counter(
            a.verdict.kind for a in attacks if name in (a.campaign, "all")
        )
        numbers = [sum(counts.values()), *(counts[kind] for kind in kinds)]
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(lines)


def groups(attacks: list[Attacked]) -> list[tuple[str, list[Attacked]]]:
    """Groups of similar failures of a campaign, most frequent first."""
    alike: dict[str, list[Attacked]] = {}
    for attacked in attacks:
        if not attacked.verdict.good:
            alike.setdefault(f"{attacked.campaign}: {attacked.verdict.group}", []).append(attacked)
    return sorted(alike.items(), key=lambda group: -len(group[1]))


def main(arguments: list[str]) -> int:
    """Runs the command line; the exit code is 1 if an attack succeeded."""
    parser = command_line.parser(
        "Attacks the command lines, and counts what they survive: "
        + ", ".join(f"{name} ({campaign.count})" for name, campaign in CAMPAIGNS.items())
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="CAMPAIGN", help="all where none is named")
    add("--seed", type=int, default=1, help="of all that is left to chance (default 1)")
    add("--share", type=float, default=1.0, help="of each campaign's attacks (default 1)")
    add("--only", type=int, help="the number of one attack of one campaign; its folder is kept")
    add("--jobs", type=int, default=2, help="processes (default 2)")
    add("--patience", type=float, default=60, help="seconds after which it hangs (default 60)")
    add("--project", type=Path, default=PROJECT, help="where train.py and evaluate.py are")
    add("--output", type=Path, help="for campaign.json and campaign.md (default results/campaign)")
    options = parser.parse_args(arguments)
    names = options.names or list(CAMPAIGNS)
    for name in names:
        if name not in CAMPAIGNS:
            raise UserError(f"no campaign {name!r}; there are {', '.join(CAMPAIGNS)}")
    if sys.platform != "linux":
        raise UserError("campaigns need Linux: they fork, adopt orphans and look into /proc")
    if options.only is not None and len(names) != 1:
        raise UserError("--only is for one campaign; name it")
    if not 0 < options.share <= 1 or options.jobs < 1:
        raise UserError("--share is above 0 and at most 1, --jobs 1 or more")
    chosen = [
        (name, number)
        for name in names
        for number in (
            range(math.ceil(CAMPAIGNS[name].count * options.share))
            if options.only is None
            else [options.only]
        )
    ]
    orders = [
        {"campaign": name, "number": number, "seed": options.seed, "keep": options.only is not None}
        for name, number in chosen
    ]
    print(f"{len(orders):,} attacks, seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    attacks: list[Attacked] = []
    started = time.monotonic()
    try:
        for attacked in carried_out(
            orders, jobs=min(options.jobs, len(orders)), project=options.project.resolve(),
            folder=folder, patience=options.patience,
        ):  # fmt: skip
            attacks.append(attacked)
            if not attacked.verdict.good or options.only is not None:
                print(attacked.report(options.seed), flush=True)
    finally:
        unmount_below(folder)
        if options.only is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.only is not None:
        print(f"What it left is in {folder}")
        return int(not attacks[0].verdict.good)
    attacks.sort(key=lambda attacked: (names.index(attacked.campaign), attacked.number))
    text = said(attacks, seed=options.seed, share=options.share, seconds=time.monotonic() - started)
    for look, alike in groups(attacks):
        numbers = ", ".join(str(attacked.number) for attacked in alike[:8])
        print(f"{len(alike)} × {look} ({numbers}{', …' if len(alike) > 8 else ''})")
    print(f"\n{text}")
    if options.output or options.share == 1:
        store(options.output or PROJECT / "results" / "campaign", attacks, text, options)
    return int(not all(attacked.verdict.good for attacked in attacks))


def unmount_below(folder: Path) -> None:
    """Removes mounts that a crashed process left behind."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        place = line.split(" ")[1]
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=False)


def said(attacks: list[Attacked], *, seed: int, share: float, seconds: float) -> str:
    """The table, and the conditions of the campaign."""
    about = environment()
    taken = Counter[str]()
    for attacked in attacks:
        taken[attacked.campaign] += round(attacked.seconds)
    times = ", ".join(f"{name} {spent:,}" for name, spent in taken.items())
    versions = " ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{table(attacks)}\n\nSeed {seed}, {share:.0%} of each campaign, {seconds / 60:.0f} "
        f"minutes on {about['cpus']} × {about['cpu']} (seconds by campaign and process: {times}); "
        f"{about['time'][:10]}, revision {about['git']}, Python {about['python']}, {versions}.\n"
    )


def store(folder: Path, attacks: list[Attacked], text: str, options: Any) -> None:
    """Writes campaign.md and campaign.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "campaign.md").write_text(text, encoding="utf-8")
    about = {k: v for k, v in environment().items() if k != "command"}
    failed = [
        {"campaign": a.campaign, "number": a.number, "kind": a.verdict.kind,
         "attack": a.verdict.attack, "said": a.verdict.group}
        for a in attacks if not a.verdict.good
    ]  # fmt: skip
    campaigns = {
        name: dict(Counter(a.verdict.kind for a in attacks if a.campaign == name))
        for name in dict.fromkeys(a.campaign for a in attacks)
    }
    stored = {
        "seed": options.seed, "share": options.share, "environment": about,
        "campaigns": campaigns, "failed": failed,
    }  # fmt: skip
    (folder / "campaign.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(f"Stored in {folder}")
