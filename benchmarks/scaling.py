"""Measures training on several ranks beside one process, and what ranks exchange.

python -m benchmarks.scaling                                 everything, RL² and MAML-TRPO on ML10
python -m benchmarks.scaling rl2_ml10 --rounds 3             one of configs/
python -m benchmarks.scaling --parts traffic sums            only what ranks exchange

`speed` trains whole iterations by turns, on the same machine: one process with as many threads as
there are processors, and as many ranks of one thread each. The first iteration, which compiles, is
not counted; env steps/s are medians over rounds, the ratio is that of the two speeds of a round,
and the share is that of the time in sums over ranks, with the wait for the slower rank. `traffic`
counts the sums and bytes of an iteration of each agent's published config. `sums` times single sums
of float32 over ranks on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

from benchmarks import command_line
from metarl.system.command_line import one_line_errors
from metarl.system.hardware import num_processors
from metarl.training.provenance import environment

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = ("rl2_ml10", "maml_trpo_ml10")
EXCHANGING = (
    "rl2_ml10", "maml_trpo_ml10", "promp_point", "varibad_cheetah_vel", "pearl_cheetah_vel",
    "maml_glyphs",
)  # fmt: skip
SIZES = (1, 1_000, 10_000, 100_000, 1_000_000, 4_000_000)
PARTS = ("speed", "traffic", "sums")
WORKER = "--worker"


# -- in the ranks ----------------------------------------------------------------------------------


def work(job: str, options: dict[str, Any], output: Path) -> None:
    """What a rank does: trains an experiment, or times sums; the first one writes the result."""
    import torch

    from metarl.system import ranks
    from metarl.training.experiment import load
    from train import start

    with ranks.joined("benchmarks.scaling"):
        if job == "sums":
            found: Any = {size: seconds_of_a_sum(torch.ones(size)) for size in SIZES}
        else:
            folder = output.parent / "run"
            start(load(CONFIGS / f"{job}.yaml", options), folder, new=True)
            traffic = ranks.traffic()
            lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            found = {"sums": traffic.sums, "bytes": traffic.bytes}
            found["iterations"] = [json.loads(line) for line in lines]
        if ranks.is_first():
            output.write_text(json.dumps(found), encoding="utf-8")


def seconds_of_a_sum(tensor: Any, *, repeats: int = 50) -> float:
    """Median time (s) of a sum over ranks."""
    from metarl.system import ranks

    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        ranks.summed(tensor)
        times.append(time.perf_counter() - started)
    return median(times)


def run(job: str, options: dict[str, Any], *, ranks: int, threads: int) -> Any:
    """The result of `work` on a number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(ranks),
            "-m",
            "benchmarks.scaling",
            WORKER,
            job,
            json.dumps(options),
            str(output),
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            command_line.fail(f"{job} on {ranks} ranks failed: {done.stderr[-1500:]}")
        return json.loads(output.read_text(encoding="utf-8"))


# -- what is measured ------------------------------------------------------------------------------


def iterations(experiment: str, number: int) -> dict[str, Any]:
    """Options for a training of some iterations, which ends without a checkpoint in between."""
    from metarl.training.experiment import load
    from train import training_shape

    loaded: Any = load(CONFIGS / f"{experiment}.yaml", {})
    plan = loaded.train
    if hasattr(plan, "tasks"):
        budget = {"train.tasks": number * plan.meta_batch_size * plan.updates_per_iteration}
    else:
        distribution = loaded.env.build()
        shape = training_shape(loaded, distribution)
        steps = plan.meta_batch_size * shape.total_episodes * distribution.horizon
        budget = {"train.env_steps": number * steps}
    return budget | {"train.checkpoint_every": 1000}


def speed(experiment: str, *, rounds: int, counted: int) -> dict[str, Any]:
    """Env steps/s, seconds of rollout and update, and the share of sums, of both contenders."""
    cores = num_processors()
    contenders = {"one process": (1, cores), "ranks": (cores, 1)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    options = iterations(experiment, counted + 1)
    for number in range(rounds):
        order = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            ranks, threads = contenders[name]
            lines = run(experiment, options, ranks=ranks, threads=threads)["iterations"][1:]
            sums = {key: sum(line.get(f"timing/{key}", 0.0) for line in lines)
                    for key in ("rollout_s", "update_s", "ranks_s")}  # fmt: skip
            steps = lines[-1]["env_steps"] * len(lines) / (len(lines) + 1)
            seconds = sums["rollout_s"] + sums["update_s"]
            found[name].append(
                {"env_steps_per_s": steps / seconds}
                | {key: value / len(lines) for key, value in sums.items()}
            )
            print(f"{experiment}, {name}: {steps / seconds:,.0f} env steps/s", flush=True)
    return {"cores": cores, "rounds": found}


def traffic(experiment: str) -> dict[str, Any]:
    """Sums and bytes of an iteration: the difference between two and one."""
    one, two = (run(experiment, iterations(experiment, n), ranks=2, threads=1) for n in (1, 2))
    print(f"{experiment}: counted", flush=True)
    return {key: two[key] - one[key] for key in ("sums", "bytes")}


# -- the table -------------------------------------------------------------------------------------


def report(measured: dict[str, Any]) -> str:
    """Markdown tables of what was measured."""
    parts = []
    if speeds := measured.get("speed"):
        lines = ["| | env steps/s | rollout s | update s | in sums | ranks / one process |",
                 "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
        for experiment, found in speeds.items():
            rounds = found["rounds"]
            pairs = zip(rounds["one process"], rounds["ranks"], strict=True)
            ratios = [many["env_steps_per_s"] / one["env_steps_per_s"] for one, many in pairs]
            for name, each in rounds.items():
                middle = {key: median(line[key] for line in each) for key in each[0]}
                share = middle["ranks_s"] / (middle["rollout_s"] + middle["update_s"])
                cores = found["cores"]
                what = f"{cores} ranks × 1 thread" if name == "ranks" else f"1 process × {cores}"
                ratio = f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
                lines.append(
                    f"| {experiment}, {what} | {middle['env_steps_per_s']:,.0f} | "
                    f"{middle['rollout_s']:.1f} | {middle['update_s']:.1f} | "
                    + (f"{share:.1%} | {ratio} |" if name == "ranks" else "– | – |")
                )
        parts.append("\n".join(lines))
    if counted := measured.get("traffic"):
        lines = ["| an iteration of | sums | MB |", "|---|---:|---:|"]
        lines += [f"| {experiment} | {found['sums']:,} | {found['bytes'] / 1e6:,.2f} |"
                  for experiment, found in counted.items()]  # fmt: skip
        parts.append("\n".join(lines))
    if timed := measured.get("sums"):
        lines = [
            "| numbers | " + " | ".join(f"{int(size):,}" for size in timed) + " |",
            "|---" + "|---:" * len(timed) + "|",
            "| ms a sum | " + " | ".join(f"{1e3 * s:.2f}" for s in timed.values()) + " |",
        ]
        parts.append("\n".join(lines))
    about = measured["environment"]
    parts.append(
        f"On {about['cpu']}, {about['cpus']} processors, torch {about['versions']['torch']}."
    )
    return "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores."""
    if arguments[:1] == [WORKER]:
        job, options, output = arguments[1:]
        work(job, json.loads(options), Path(output))
        return
    parser = command_line.parser(__doc__)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2, help="that count, in a round")
    parser.add_argument("--output", type=Path, default="results/scaling", help="for the tables")
    options = parser.parse_args(arguments)
    command_line.check_known("part", options.parts, PARTS)
    stored = options.output / "scaling.json"
    measured = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    options.output.mkdir(parents=True, exist_ok=True)

    def store() -> None:
        measured["environment"] = environment()
        stored.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        table = stored.with_suffix(".md")
        table.write_text(report(measured) + "\n", encoding="utf-8")

    for part in options.parts:
        if part == "sums":
            measured[part] = run("sums", {}, ranks=2, threads=1)
        for experiment in {"speed": options.experiments, "traffic": EXCHANGING}.get(part, ()):
            found = (
                speed(experiment, rounds=options.rounds, counted=options.iterations)
                if part == "speed"
                else traffic(experiment)
            )
            measured.setdefault(part, {})[experiment] = found
            store()
        store()
    print(f"{report(measured)}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.scaling"):
        main(sys.argv[1:])
