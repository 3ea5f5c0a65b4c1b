"""Measures RL²'s meta-update by memory and precision, and how near it is to its arithmetic.

python -m benchmarks.rl2_updates                        at ML10's sizes: 40 trials x 1,500 steps
python -m benchmarks.rl2_updates --width 256 --rounds 3

All contenders run in one process and are measured in turn, round after round, on the same
experience, with the settings of configs/rl2_ml10.yaml: 5 passes, 20 minibatches. Ratios are medians
of ratios within a round. The floor is the time that the update's products of matrices alone take at
the rate that this processor reaches on 2,000 x 512 x 512, in the precision of the contender.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, get_args

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import torch
from torch.utils.flop_counter import FlopCounterMode

from agents.rl2 import RL2
from benchmarks import command_line
from envs.metaworld.official import ACTION_SPACE, observation_space
from metarl.nn.memories import MemoryKind
from metarl.system.command_line import one_line_errors
from metarl.system.seeding import torch_generator
from metarl.training.experiment import load_experiment
from metarl.training.provenance import environment
from metarl.types import Rollout, TimeStep

CONFIG = Path(__file__).parents[1] / "configs" / "rl2_ml10.yaml"
TRIALS, STEPS = 40, 1_500
CPU = torch.device("cpu")
BASELINE = ("gru", "float32")
PRECISIONS = ("float32", "bfloat16")


def new_agent(memory: str, products: str, width: int) -> RL2:
    """An untrained agent with this memory."""
    options = {
        "agent.memory": memory, "agent.products": products, "agent.hidden_size": width,
        "agent.encoder_sizes": (width,), "agent.layers": 2 if memory == "mixed" else 1,
    }  # fmt: skip
    config = load_experiment(CONFIG, options).agent
    agent = config.build(observation_space(), ACTION_SPACE, seed=0, device=CPU)
    assert isinstance(agent, RL2)
    return agent


def random_experience(agent: RL2) -> Rollout:
    """Random experience; log-probabilities are those of the agent, so that ratios start at 1."""
    generator = torch.Generator().manual_seed(0)
    shape = (TRIALS, STEPS)
    ends = (torch.arange(STEPS) % 500 == 499).expand(shape)
    action = torch.randn(*shape, 4, generator=generator)
    seen = TimeStep(
        obs=torch.randn(*shape, 39, generator=generator),
        prev_action=action.roll(1, dims=1).clamp(-1, 1),
        prev_reward=torch.rand(shape, generator=generator),
        episode_start=ends.roll(1, dims=1),
    )
    with torch.no_grad():
        policy, _, _ = agent.network(seen, agent.begin_trial(TRIALS))
    return Rollout(
        seen=seen, action=action, log_prob=policy.log_prob(action),
        reward=torch.rand(shape, generator=generator), episode_end=ends,
        success=torch.zeros(shape, dtype=torch.bool), final_obs=torch.zeros(TRIALS, 0, 39),
    )  # fmt: skip


def update(agent: RL2, rollout: Rollout) -> None:
    """One meta-update."""
    agent.meta_update([rollout], generator=torch_generator(0, CPU))


def seconds(run: Callable[[], object]) -> float:
    """Time of a call (s)."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a product of matrices of 2,000 x 512 x 512, the median of many."""
    a, b = torch.randn(2_000, 512).to(dtype), torch.randn(512, 512).to(dtype)
    taken = [seconds(lambda: torch.nn.functional.linear(a, b)) for _ in range(50)]
    return 2 * 2_000 * 512 * 512 / median(taken)


def measure(width: int, rounds: int, memories: list[str]) -> dict[str, dict[str, Any]]:
    """Seconds, ratios, FLOPs and floors of all contenders."""
    agents = {
        (memory, products): new_agent(memory, products, width)
        for memory in memories
        for products in PRECISIONS
    }
    experience = {name: random_experience(agent) for name, agent in agents.items()}
    flops: dict[tuple[str, str], int] = {}
    for name, agent in agents.items():
        with FlopCounterMode(display=False) as counter:
            update(agent, experience[name])
        flops[name] = counter.get_total_flops()
    rates = {products: product_rate(getattr(torch, products)) for products in PRECISIONS}
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in agents}
    for _ in range(rounds):
        for name, agent in agents.items():
            taken[name].append(seconds(lambda a=agent, e=experience[name]: update(a, e)))
    return {
        f"{memory}, {products}": {
            "seconds": taken[memory, products],
            "times_faster_than_gru": median(
                base / own
                for base, own in zip(taken[BASELINE], taken[memory, products], strict=True)
            ),
            "parameters": sum(p.numel() for p in agents[memory, products].network.parameters()),
            "gflop": flops[memory, products] / 1e9,
            "floor_s": flops[memory, products] / rates[products],
        }
        for memory, products in agents
    }


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown table with one line per contender."""
    lines = [
        "| memory, products | parameters | seconds: median [min–max] | × as fast as the GRU "
        "| GFLOP | floor, s | of it |",
        "|---" + "|---:" * 6 + "|",
    ]
    for name, m in measured.items():
        middle = median(m["seconds"])
        lines.append(
            f"| {name} | {m['parameters']:,} | {middle:.2f} [{min(m['seconds']):.2f}–"
            f"{max(m['seconds']):.2f}] | {m['times_faster_than_gru']:.2f} | {m['gflop']:,.0f} | "
            f"{m['floor_s']:.2f} | {middle / m['floor_s']:.1f} × |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--width", type=int, default=128, help="units of memory and encoder")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--memories", nargs="+", default=list(get_args(MemoryKind)))
    parser.add_argument("--output", type=Path, default="results/rl2_updates", help="for the table")
    options = parser.parse_args(arguments)
    if unknown := set(options.memories) - set(get_args(MemoryKind)):
        command_line.fail(f"no memory {min(unknown)!r}; known: {', '.join(get_args(MemoryKind))}")
    if options.rounds < 1 or options.width < 8 or options.width % 8:
        command_line.fail("--rounds must be at least 1, and --width a multiple of 8")
    memories = ["gru", *(name for name in options.memories if name != "gru")]
    about = environment()
    measured = measure(options.width, options.rounds, memories)
    text = (
        f"{table(measured)}\n\n{about['cpu']}, {torch.get_num_threads()} threads, torch "
        f"{about['versions']['torch']}, {TRIALS} trials x {STEPS:,} steps, width {options.width}; "
        f"{options.rounds} rounds"
    )
    name = f"width{options.width}_threads{torch.get_num_threads()}"
    options.output.mkdir(parents=True, exist_ok=True)
    stored = {"options": vars(options), "environment": about, "contenders": measured}
    (options.output / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (options.output / f"{name}.json").write_text(
        json.dumps(stored, indent=1, default=str) + "\n", encoding="utf-8"
    )
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.rl2_updates"):
        main(sys.argv[1:])
