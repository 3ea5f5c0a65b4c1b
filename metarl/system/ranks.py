"""Ranks: processes, started by torchrun, that train one run together.

Each rank plays its own share of a meta-batch and learns from it. Everything random is drawn for all
ranks on every rank, from the same streams, and each uses the rows that are its own; gradients,
statistics and metrics are sums over ranks. W ranks therefore play the trials that a single process
would, and learn the same from them, up to the rounding of sums.

In a single process each function here returns what it is given, and costs nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from metarl.errors import UserError, printable, say
from metarl.system import stopping
from metarl.system.heartbeat import EXIT_CODE, Heartbeat, may_tell

SECONDS = 60.0
"""Time after which a rank that does not go on ends the training of all."""
VARIABLE = "METARL_SECONDS_TO_GO_ON"
"""Environment variable with another such time."""
SECONDS_TO_TELL = 1.0
"""Time that a rank which failed has to tell why, before one that only lost it speaks."""
c10d: Any = dist  # whose stub lacks stores

N = TypeVar("N", Tensor, float, int)
T = TypeVar("T")


class RankLostError(UserError):
    """Another rank has ended, or cannot be reached."""


@dataclass(frozen=True)
class Share:
    """Rows from `start` up to `stop`, of `total`: those of one rank."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    def of(self, rows: T) -> T:
        """The own rows of a tensor or a list."""
        return cast(Any, rows)[self.start : self.stop]

    def chosen(self, rows: Int[Tensor, " m"]) -> Int[Tensor, " m_own"]:
        """Those of the indices `rows` that are own rows, counted from the first own one."""
        if len(self) == self.total:
            return rows
        return rows[(rows >= self.start) & (rows < self.stop)] - self.start


# -- who takes part --------------------------------------------------------------------------------


def number() -> int:
    """Number of ranks; 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own() -> int:
    """This process's rank; 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """True on the rank that writes and prints, and in a single process."""
    return own() == 0


def launched() -> bool:
    """True if torchrun started this process."""
    return dist.is_torchelastic_launched()


def on_this_machine() -> int:
    """Number of ranks on this machine, which share its processors."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() else 1


def device_number() -> int:
    """Number of this rank's GPU on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0


def job() -> str:
    """Name of the job of torchrun's that this process belongs to, also after it was started again:
    the `--rdzv-id`, or the process of torchrun where none is given."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return run_id if run_id != "none" else f"{socket.gethostname()} {os.getppid()}"


def name() -> str:
    """This rank as messages name it; '' in a single process."""
    return f"rank {own()} of {number()} on {socket.gethostname()}" if number() > 1 else ""


class _Joined:
    """What this process does as a rank: sums that it took part in, whether it waits for one, and
    whether it has to go on by now."""

    sums = 0
    bytes = 0
    seconds = 0.0
    waiting = False
    watched = False


def _state() -> tuple[int, bool]:
    progress = stopping.checks() + _Joined.sums if _Joined.watched else 0
    return progress, _Joined.waiting


@dataclass(frozen=True)
class Traffic:
    """What a rank has exchanged with the others so far."""

    sums: int
    bytes: int
    """Size of what was summed."""
    seconds: float
    """Time in sums, with the wait for slower ranks."""


def traffic() -> Traffic:
    """What this rank has exchanged so far."""
    return Traffic(_Joined.sums, _Joined.bytes, _Joined.seconds)


def watch() -> None:
    """From now on this rank counts as lost if it does not go on: all is compiled."""
    _Joined.watched = True


@contextmanager
def joined(program: str) -> Iterator[None]:
    """Context in which the processes that torchrun started are ranks of one training.

    The first rank that fails tells why, in one line that names it, and the others end without a
    word. So they do, within `SECONDS`, if a rank is killed, hangs or cannot be reached. `program`
    begins messages.

    Raises:
        UserError: this rank failed, and is the one that tells; or `VARIABLE` is no time.
        SystemExit: this rank ends because another failed.
    """
    if not launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    seconds = _seconds()
    with_gpu = torch.cuda.is_available()
    if with_gpu:
        torch.cuda.set_device(device_number())
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store(rank, size)
    # A sum waits for the slowest rank, however long that one plays: whether it is alive is the
    # heartbeat's to find out.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if with_gpu else "gloo",
        store=c10d.PrefixStore("sums", store), rank=rank, world_size=size,
        timeout=timedelta(days=1),
    )  # fmt: skip
    heartbeat = Heartbeat(
        store.clone(), rank=rank, size=size, seconds=seconds,
        who=name(), state=_state, program=program,
    )  # fmt: skip
    try:
        with heartbeat, _told(store, program):
            try:
                yield
            except SystemExit as ended:
                if ended.code:
                    raise
            with _waiting():
                dist.barrier()
    finally:
        dist.destroy_process_group()


def _seconds() -> float:
    text = os.environ.get(VARIABLE, str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise UserError(f"{VARIABLE} should be a number of seconds, not {printable(text)!r}")
    return seconds


def _store(rank: int, size: int) -> Any:
    """The store of this start of all ranks: torchrun's, or that of the first rank."""
    torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = c10d.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size,
        is_master=rank == 0 and not torchruns, timeout=timedelta(seconds=300),
    )  # fmt: skip
    # torchrun's outlives the ranks. Ours does not; and on a machine that has just joined the number
    # is another one.
    start = os.environ["TORCHELASTIC_RESTART_COUNT"] if torchruns else ""
    return c10d.PrefixStore(f"metarl {start}", store)


@contextmanager
def _told(store: Any, program: str) -> Iterator[None]:
    """Context whose failure is told by the first rank that has one."""
    try:
        yield
    except KeyboardInterrupt:
        if own() > 0 or store.check(["told"]):
            raise SystemExit(stopping.EXIT_CODE) from None
        raise
    except RankLostError as error:
        with suppress(KeyboardInterrupt):  # torchrun stops the ranks that are left
            time.sleep(SECONDS_TO_TELL)  # the rank that failed knows why
            if may_tell(store):
                say(f"{program}: {error}; all ranks end")
        raise SystemExit(EXIT_CODE) from None
    except UserError as error:
        if not may_tell(store):
            raise SystemExit(EXIT_CODE) from None
        raise UserError(f"{name()}: {error}") from None


# -- own rows --------------------------------------------------------------------------------------


def share_of(total: int) -> Share:
    """The own share of `total` rows: adjacent ones, as many on each rank, or one more."""
    return _cut(total, own(), number())


def _cut(total: int, rank: int, size: int) -> Share:
    least, rest = divmod(total, size)
    start = rank * least + min(rank, rest)
    return Share(start, start + least + (rank < rest), total)


def check_enough(total: int, what: str) -> None:
    """Checks that each rank gets a row.

    Raises:
        UserError: there are fewer rows, which `what` names, than ranks.
    """
    if total < number():
        raise UserError(
            f"{what} {total} is fewer than {number()} ranks, which share it; raise it, or start "
            f"torchrun with --nproc-per-node {total}"
        )


def split(total: int) -> tuple[Share, float]:
    """The own share of `total` rows and its weight in their mean. Where rows are fewer than ranks,
    each rank takes all of them."""
    if total < number():
        return Share(0, total, total), 1 / number()
    share = share_of(total)
    return share, len(share) / total


def place_of(rows: int) -> Share:
    """The place of own rows among those of all ranks, one after the other."""
    counts = torch.zeros(number(), dtype=torch.int64)
    counts[own()] = rows
    before = int(summed(counts)[: own()].sum()) if number() > 1 else 0
    return Share(before, before + rows, summed(rows))


class OwnRows(torch.Generator):
    """A generator whose numbers are drawn for all ranks, of which a rank takes its own; see
    `taking`."""

    share: Share | None = None


@contextmanager
def taking(share: Share | None, generator: torch.Generator | None) -> Iterator[None]:
    """Context in which `drawn` draws for `share.total` rows and returns the own ones."""
    if share is None or not isinstance(generator, OwnRows):
        yield
        return
    generator.share = share
    try:
        yield
    finally:
        generator.share = None


def drawn(
    draw: Callable[..., Tensor],
    shape: torch.Size,
    generator: torch.Generator,
    *,
    dtype: torch.dtype,
) -> Shaped[Tensor, ...]:
    """Random numbers: `draw(shape, …)`, or, inside `taking`, the own rows of those of all ranks.

    Args:
        draw: `torch.rand` or `torch.randn`.
        shape: its first axis is that of the rows, or of equally many adjacent ones for each.
        generator: random stream.
        dtype: type of the numbers.
    """
    share = generator.share if isinstance(generator, OwnRows) else None
    if share is None:
        return draw(shape, generator=generator, device=generator.device, dtype=dtype)
    each, rest = divmod(shape[0], len(share))
    assert not rest, f"{shape[0]} rows for a share of {len(share)}"
    total = (each * share.total, *shape[1:])
    numbers = draw(total, generator=generator, device=generator.device, dtype=dtype)
    return numbers[each * share.start : each * share.stop]


# -- sums ------------------------------------------------------------------------------------------


def summed(value: N) -> N:
    """The sum over ranks. Every rank must call this, in the same order; all get the same bits."""
    if number() == 1:
        return value
    if isinstance(value, Tensor):
        total = value.detach().clone()
        _reduce(total)
        return total
    total = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    _reduce(total)
    return type(value)(total.item())


def gathered(rows: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "total ..."]:
    """The rows of all ranks, one after the other."""
    if number() == 1:
        return rows
    place = place_of(len(rows))
    plain = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    whole = torch.zeros(place.total, *rows.shape[1:], dtype=plain.dtype, device=rows.device)
    whole[place.start : place.stop] = plain
    return summed(whole).to(rows.dtype)


def moments(
    rows: Float[Tensor, "n ..."], *, correction: int = 1
) -> tuple[int, Float[Tensor, ...], Float[Tensor, ...]]:
    """Number of rows of all ranks, their mean and their variance.

    Args:
        rows: own rows.
        correction: what the number is reduced by in the variance.
    """
    if number() == 1:
        return len(rows), rows.mean(0), rows.var(0, correction=correction)
    count = summed(len(rows))
    mean = summed(rows.sum(0)) / count
    return count, mean, summed((rows - mean).square().sum(0)) / (count - correction)


def mean(rows: Float[Tensor, "n ..."]) -> Float[Tensor, ...]:
    """Mean over the rows of all ranks."""
    return rows.mean(0) if number() == 1 else summed(rows.sum(0)) / summed(len(rows))


def variance(values: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Variance of the numbers of all ranks."""
    return values.var() if number() == 1 else moments(values.flatten())[2]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces each gradient by its sum over ranks, in one call. A parameter has a gradient on all
    ranks or on none."""
    if number() == 1:
        return
    learned = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in learned if p.grad is not None])
    _reduce(flat)
    for p, part in zip(learned, flat.split([p.numel() for p in learned]), strict=True):
        p.grad = part.view_as(p)


def gathered_objects(objects: list[T]) -> list[T]:
    """The objects of all ranks, one after the other. They are pickled."""
    if number() == 1:
        return objects
    lists: list[list[T]] = [[]] * number()
    with _waiting():
        dist.all_gather_object(lists, objects)
    return [each for of_rank in lists for each in of_rank]


def from_first(value: T) -> T:
    """The first rank's value, on all."""
    if number() == 1:
        return value
    box = [value]
    with _waiting():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _reduce(tensor: Tensor) -> None:
    _Joined.bytes += tensor.numel() * tensor.element_size()
    with _waiting():
        dist.all_reduce(tensor)


@contextmanager
def _waiting() -> Iterator[None]:
    _Joined.waiting = True
    started = time.perf_counter()
    try:
        yield
    except RuntimeError:
        stopping.check()  # all ranks were stopped, and another was quicker
        raise RankLostError("another rank has ended or cannot be reached") from None
    finally:
        _Joined.waiting = False
        _Joined.sums += 1
        _Joined.seconds += time.perf_counter() - started
