"""Measures a MAML outer step, compared with `higher` in a loop over tasks and with TorchOpt.

python -m benchmarks.few_shot                     32 tasks: sinusoids, and 5-way 1-shot with Conv-4
python -m benchmarks.few_shot --queries 15        15 query images of each class in place of 1
python -m benchmarks.few_shot --steps 5 --rounds 3

All contenders run in one process and are measured in turn, round after round, on the same tasks;
ratios are medians of ratios within a round. Each computes the gradient of the mean query loss after
gradient steps on the support, with second derivatives. First, all gradients are checked to be equal
in double precision: in single precision an error in the seventh digit can switch a pixel of
max-pooling or a ReLU, and with it a part of a task's gradient. TorchOpt is included if it is
installed (pip install torchopt).
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import higher
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.maml import MAML, MAMLConfig
from benchmarks import command_line
from envs.few_shot import GlyphsConfig, SinusoidConfig
from metarl.nn.encoders import Conv4Config, MLPConfig
from metarl.protocols import FewShotDistribution
from metarl.system.command_line import one_line_errors
from metarl.training.provenance import environment
from metarl.types import FewShotBatch

CPU = torch.device("cpu")
CHECKED_TASKS = 4
TOLERANCE = 1e-9
"""Largest difference of gradients, relative to the largest entry."""


def conv4_as_usual(filters: int = 64, ways: int = 5) -> nn.Module:
    """Conv-4 from torch's own layers, as a user of `higher` would write it."""
    layers: list[nn.Module] = []
    for before in (1, filters, filters, filters):
        layers += [
            nn.Conv2d(before, filters, 3, padding=1),
            nn.BatchNorm2d(filters, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(filters, ways))


def mlp_as_usual() -> nn.Module:
    """MAML's network for sinusoids, from torch's own layers."""
    return nn.Sequential(
        nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
    )


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Squared error or cross-entropy."""
    if target.is_floating_point():
        return F.mse_loss(output, target)
    return F.cross_entropy(output, target)


# -- contenders ------------------------------------------------------------------------------------


def ours(maml: MAML, batch: FewShotBatch) -> list[Tensor]:
    """The gradient that `MAML.meta_update` uses."""
    maml.optimizer.zero_grad()
    size = maml.config.tasks_at_once
    for first in range(0, len(batch), size):
        maml._accumulate(batch[first : first + size], num_tasks=len(batch))
    return [p.grad for p in maml.learned.parameters() if p.grad is not None]


def with_higher(net: nn.Module, batch: FewShotBatch, *, steps: int, rate: float) -> list[Tensor]:
    """The gradient task by task, as in the examples of `higher`."""
    net.zero_grad()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    for n in range(len(batch)):
        with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (model, inner):
            for _ in range(steps):
                inner.step(loss_of(model(batch.support_x[n]), batch.support_y[n]))
            (loss_of(model(batch.query_x[n]), batch.query_y[n]) / len(batch)).backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def with_torchopt(net: nn.Module, batch: FewShotBatch, *, steps: int, rate: float) -> list[Tensor]:
    """The gradient task by task, as in the examples of TorchOpt."""
    import torchopt  # pyright: ignore[reportMissingImports]

    net.zero_grad()
    optimizer = torchopt.MetaSGD(net, lr=rate)
    start = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
    start_of_optimizer = torchopt.extract_state_dict(optimizer, by="reference")
    parameters = list(net.parameters())
    for n in range(len(batch)):
        for _ in range(steps):
            optimizer.step(loss_of(net(batch.support_x[n]), batch.support_y[n]))
        (loss_of(net(batch.query_x[n]), batch.query_y[n]) / len(batch)).backward()
        torchopt.recover_state_dict(net, start)
        torchopt.recover_state_dict(optimizer, start_of_optimizer)
    return [p.grad for p in parameters if p.grad is not None]


def compare(
    config: MAMLConfig, usual: nn.Module, distribution: FewShotDistribution, *, tasks: int,
    rounds: int,
) -> dict[str, Any]:  # fmt: skip
    """Measures all contenders in turn; the first round is not counted."""
    maml = config.build(distribution.shape, seed=0, device=CPU)
    with torch.no_grad():  # the same parameters in the same order
        for mine, theirs in zip(maml.learned.parameters(), usual.parameters(), strict=True):
            theirs.copy_(mine)
    options = {"steps": config.steps, "rate": config.inner_learning_rate}
    contenders: dict[str, Callable[[FewShotBatch], list[Tensor]]] = {
        "ours": lambda batch: ours(maml, batch),
        "higher": lambda batch: with_higher(usual, batch, **options),
    }
    again = copy.deepcopy(usual) if importlib.util.find_spec("torchopt") else None
    if again is not None:
        contenders["torchopt"] = lambda batch: with_torchopt(again, batch, **options)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    rng = np.random.default_rng(0)
    networks = [maml.learned, usual, *([again] if again is not None else [])]
    for network in networks:
        network.double()
    batch = in_double_precision(distribution.train.sample(min(tasks, CHECKED_TASKS), rng))
    check_same({name: [g.clone() for g in each(batch)] for name, each in contenders.items()})
    for network in networks:
        network.float()
    for round_ in range(rounds + 1):
        batch = distribution.train.sample(tasks, rng)
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender(batch)
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "times_faster_than": {
            name: statistics.median(
                theirs / mine for theirs, mine in zip(values, seconds["ours"], strict=True)
            )
            for name, values in seconds.items()
            if name != "ours"
        },
    }


def in_double_precision(batch: FewShotBatch) -> FewShotBatch:
    """The same tasks in double precision."""
    rows = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return FewShotBatch(
        **{name: row.double() if row.is_floating_point() else row for name, row in rows.items()}
    )


def check_same(gradients: dict[str, list[Tensor]]) -> None:
    """Checks that all contenders found the same gradient.

    Raises:
        UserError: the gradients differ.
    """
    rows = {name: torch.cat([g.flatten() for g in each]) for name, each in gradients.items()}
    for name, row in rows.items():
        difference = float((row - rows["ours"]).abs().max() / rows["ours"].abs().max())
        if not difference < TOLERANCE:
            command_line.fail(f"the gradient of {name} differs by {difference:.1e} of its largest")


def main() -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=32, help="of an outer step")
    parser.add_argument("--steps", type=int, default=1, help="inner gradient steps")
    parser.add_argument("--queries", type=int, default=1, help="query images of each class")
    parser.add_argument("--rounds", type=int, default=10, help="that are counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = {"tasks": given.tasks, "rounds": given.rounds}
    mlp = MAMLConfig(encoder=MLPConfig(), steps=given.steps, tasks_at_once=given.tasks)
    conv = MAMLConfig(encoder=Conv4Config(), inner_learning_rate=0.1, steps=given.steps)
    glyphs = GlyphsConfig(num_train_classes=50, num_test_classes=5, queries=given.queries)
    results = {
        "sinusoid MLP": compare(mlp, mlp_as_usual(), SinusoidConfig().build(), **sizes),
        "Conv-4": compare(conv, conv4_as_usual(), glyphs.build(), **sizes),
    }
    for name, result in results.items():
        print(f"{name}, {given.tasks} tasks, {given.steps} inner step(s), {given.threads} threads")
        for contender, seconds in result["seconds"].items():
            ratio = result["times_faster_than"].get(contender)
            print(f"  {contender:10}{1e3 * seconds:9.1f} ms" + (f"{ratio:8.2f} ×" if ratio else ""))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        line = {"given": vars(given) | {"out": None}, **results, "environment": environment()}
        given.out.write_text(json.dumps(line, indent=1), encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors("benchmarks.few_shot"):
        main()
