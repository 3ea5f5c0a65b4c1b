import torch

from metarl.system import ranks
from metarl.system.heartbeat import Beat, Watch
from metarl.system.ranks import OwnRows, Share


def test_shares_are_adjacent_and_together_everything() -> None:
    shares = [ranks._cut(10, rank, 4) for rank in range(4)]
    assert [len(share) for share in shares] == [3, 3, 2, 2]
    assert [row for share in shares for row in share.of(list(range(10)))] == list(range(10))


def test_chosen_rows_are_counted_from_the_first_own_one() -> None:
    order = torch.tensor([4, 0, 3, 5, 1])
    assert Share(3, 6, 6).chosen(order).tolist() == [1, 0, 2]
    assert Share(0, 6, 6).chosen(order) is order


def test_own_rows_are_those_that_a_single_process_would_draw() -> None:
    def generator() -> OwnRows:
        return OwnRows().manual_seed(3)

    whole = ranks.drawn(torch.randn, torch.Size([6, 2]), generator(), dtype=torch.float64)
    for share in (Share(0, 2, 3), Share(2, 3, 3)):  # of tasks with two slots each
        own = generator()
        with ranks.taking(share, own):
            rows = torch.Size([2 * len(share), 2])
            drawn = ranks.drawn(torch.randn, rows, own, dtype=torch.float64)
        assert torch.equal(drawn, whole[2 * share.start : 2 * share.stop])
        after = torch.rand(3, generator=own)
        single = generator()
        torch.randn(6, 2, generator=single, dtype=torch.float64)
        assert torch.equal(after, torch.rand(3, generator=single)), "the stream is where it was"


def test_a_single_process_gets_back_what_it_gives() -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert ranks.summed(rows) is rows and ranks.gathered(rows) is rows
    assert ranks.split(3) == (Share(0, 3, 3), 1.0)
    count, mean, variance = ranks.moments(rows, correction=0)
    assert count == 3 and mean.tolist() == [2, 3]
    assert torch.equal(variance, rows.var(0, correction=0))


def beats(*of_ranks: tuple[int, int, bool]) -> dict[int, Beat]:
    return {rank: Beat(*beat, f"rank {rank}") for rank, beat in enumerate(of_ranks)}


def test_a_rank_that_is_silent_is_lost() -> None:
    watch = Watch(60.0)
    assert watch.lost(beats((1, 5, False), (1, 5, False)), now=0.0, all_there=True) is None
    assert watch.lost(beats((2, 6, False), (1, 5, False)), now=30.0, all_there=True) is None
    lost = watch.lost(beats((3, 7, False), (1, 5, False)), now=31.0, all_there=True)
    assert lost == "rank 1 was not heard of for 30 s"


def test_a_rank_that_stands_still_is_lost_unless_it_waits_or_compiles() -> None:
    for progress, waiting, lost in ((5, False, True), (5, True, False), (0, False, False)):
        watch = Watch(60.0)
        found = [
            watch.lost(beats((n, n, False), (n, progress, waiting)), now=10.0 * n, all_there=True)
            for n in range(1, 9)
        ]
        assert found[:7] == [None] * 7
        assert found[7] == ("rank 1 did not go on for 60 s" if lost else None)


def test_ranks_that_all_wait_are_lost() -> None:
    watch = Watch(60.0)
    found = [
        watch.lost(beats((n, 5, True), (n, 6, True)), now=10.0 * n, all_there=True)
        for n in range(1, 9)
    ]
    assert found[:7] == [None] * 7 and found[7] is not None


def test_beats_are_read_as_they_were_written() -> None:
    beat = Beat(3, 17, True, "rank 1 of 2 on some host")
    assert Beat.read(beat.written().encode()) == beat
