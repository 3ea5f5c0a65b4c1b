"""Memories: one pass equals many, nothing of the future is seen, derivatives and papers hold."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metarl.errors import UserError
from metarl.nn.memories import Memory, MemoryKind, build_memory
from metarl.nn.memories.attention import HEADS, Attention
from metarl.nn.memories.convolution import WIDTH, ShortConvolution
from metarl.nn.memories.linear_attention import LinearAttention
from metarl.nn.memories.parts import CHUNK
from metarl.nn.memories.recurrence import SHARPNESS, Recurrence, gated_scan
from metarl.nn.memories.retention import HALF_LIVES, Retention

KINDS: tuple[MemoryKind, ...] = get_args(MemoryKind)
ALONE = ("gru", "lstm")
INPUTS, SIZE, WINDOW = 5, 16, 7


def new_memory(kind: MemoryKind, *, seed: int = 0) -> Memory:
    torch.manual_seed(seed)
    layers = 1 if kind in ALONE else 2
    memory = build_memory(kind, INPUTS, SIZE, layers=layers, window=WINDOW).double()
    memory.initialize()
    return memory


def sequence(steps: int, *, slots: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(slots, steps, INPUTS, generator=generator, dtype=torch.float64)


def empty(memory: Memory, slots: int = 3) -> Tensor:
    return torch.zeros(slots, memory.state_size, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[1] * 150, [40, 1, 109], [CHUNK, CHUNK, 22]])
def test_any_cut_into_pieces_gives_what_one_pass_gives(
    kind: MemoryKind, lengths: list[int]
) -> None:
    memory, x = new_memory(kind), sequence(150)
    whole, last = memory(x, empty(memory))
    state, outputs = empty(memory), []
    for piece in x.split(lengths, dim=1):
        output, state = memory(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)
    assert whole.shape[-1] == memory.output_size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_future_and_other_slots_are_not_seen(kind: MemoryKind, dtype: torch.dtype) -> None:
    memory, x = new_memory(kind).to(dtype), sequence(80).to(dtype)
    changed = x.clone()
    changed[0, 70] += 1
    before, _ = memory(x, empty(memory).to(dtype))
    after, _ = memory(changed, empty(memory).to(dtype))
    assert torch.equal(before[0, :70], after[0, :70])
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[0, 70:], after[0, 70:])


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_inputs_state_and_parameters(kind: MemoryKind) -> None:
    memory, x = new_memory(kind), sequence(6, slots=2).requires_grad_()
    _, state = memory(sequence(9, slots=2), empty(memory, 2))  # a window that is full
    state = state.detach()
    state.requires_grad_(kind != "transformer")  # whose number of steps seen has no derivative
    parameters = list(memory.parameters())

    def outputs(x: Tensor, state: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return memory(x, state)

    assert torch.autograd.gradcheck(outputs, (x, state, *parameters), fast_mode=True)


def test_the_recurrence_is_that_of_its_paper() -> None:
    """Eq. 1 to 4 of arXiv:2402.19427, step by step; a SiLU in place of the GELU."""
    torch.manual_seed(0)
    layer, x = Recurrence(SIZE).double(), torch.randn(1, 20, SIZE, dtype=torch.float64)
    output, last = layer(x, torch.zeros(1, layer.state_size, dtype=torch.float64))
    convolved = convolution_of(layer.inputs(x)[..., :SIZE], layer.convolution)
    h, base = torch.zeros(SIZE, dtype=torch.float64), layer.decay_logit.sigmoid()
    assert (base**SHARPNESS).min() >= 0.9
    assert (base**SHARPNESS).max() <= 0.999
    for t in range(20):
        u, branch = convolved[0, t], layer.inputs(x[0, t])[SIZE:]
        r, i = layer.gates(u).sigmoid().chunk(2)
        a = base ** (SHARPNESS * r)
        h = a * h + (1 - a**2).sqrt() * (i * u)
        torch.testing.assert_close(output[0, t], layer.output(h * functional.silu(branch)))
    torch.testing.assert_close(last[0, -SIZE:], h)


@pytest.mark.parametrize(("steps", "rate"), [(1, 1.0), (33, 1.0), (33, 0.01)])
def test_the_compiled_recurrence_equals_torch(steps: int, rate: float) -> None:
    """Both passes: compiled in single precision, torch's in double precision. Slow rates meet the
    least 1 - a²."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    given = [values(4, steps, 2 * SIZE) * 3, values(4, steps, 2 * SIZE) * 3,
             values(SIZE).abs() * rate, values(4, SIZE)]  # fmt: skip
    slopes = [values(4, steps, SIZE), values(4, SIZE)]
    results = []
    for dtype in (torch.float32, torch.float64):
        arguments = [x.detach().clone().to(dtype).requires_grad_() for x in given]
        outputs = gated_scan(*arguments)
        torch.autograd.backward(outputs, [slope.to(dtype) for slope in slopes])
        results.append([*outputs, *(x.grad for x in arguments)])
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).norm() < 1e-3 * exact.norm()


def test_the_compiled_gru_equals_torchs() -> None:
    """Both passes: with gradients in single precision it is compiled, without it is torch's."""
    memory = build_memory("gru", INPUTS, SIZE, layers=1, window=WINDOW)
    memory.initialize()
    x = sequence(33).float()
    results = []
    for dtype in (torch.float32, torch.float64):
        memory = memory.to(dtype)
        memory.zero_grad()
        inputs = x.detach().clone().to(dtype).requires_grad_()
        state = torch.full((3, SIZE), 0.3, dtype=dtype, requires_grad=True)
        output, last = memory(inputs, state)
        (output.square().sum() + last.sum()).backward()
        parameters = [p.grad.clone() for p in memory.parameters()]
        results.append([output, last, inputs.grad, state.grad, *parameters])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), rtol=1e-5, atol=1e-4)


def test_retention_is_that_of_its_paper() -> None:
    """Eq. 6 of arXiv:2307.08621, S_t = γ S_(t-1) + k_t v_tᵀ and o_t = q_tᵀ S_t, step by step."""
    torch.manual_seed(0)
    layer, x = Retention(SIZE).double(), torch.randn(1, 150, SIZE, dtype=torch.float64)
    output, last = layer(x, torch.zeros(1, layer.state_size, dtype=torch.float64))
    convolved = convolution_of(layer.inputs(x)[..., SIZE : 3 * SIZE], layer.convolution)
    width = SIZE // len(HALF_LIVES)
    matrices = torch.zeros(len(HALF_LIVES), width, width, dtype=torch.float64)
    decays = torch.tensor([0.5 ** (1 / steps) for steps in HALF_LIVES], dtype=torch.float64)
    for t in range(150):
        q, _, _, gate = layer.inputs(x[0, t]).chunk(4)
        k, v = convolved[0, t].chunk(2)
        q, k, v = (part.view(len(HALF_LIVES), width) for part in (q, k / width**0.5, v))
        matrices = decays[:, None, None] * matrices + k[:, :, None] * v[:, None]
        read = torch.einsum("hk,hkv->hv", q, matrices)
        normal = functional.layer_norm(read, (width,)).flatten() * functional.silu(gate)
        torch.testing.assert_close(output[0, t], layer.output(normal), rtol=1e-9, atol=1e-9)
    kept = last[0, layer.convolution.state_size :]
    torch.testing.assert_close(kept, matrices.flatten(), rtol=1e-9, atol=1e-9)


def test_linear_attention_averages_by_how_well_keys_match() -> None:
    """Eq. 5 of arXiv:2006.16236 with a prior and a share of each unit, step by step."""
    torch.manual_seed(0)
    layer, x = LinearAttention(SIZE).double(), torch.randn(1, 150, SIZE, dtype=torch.float64)
    output, _ = layer(x, torch.zeros(1, layer.state_size, dtype=torch.float64))
    query, key, share, value = layer.inputs(x).chunk(4, dim=-1)
    key = convolution_of(key, layer.convolution)
    width = SIZE // 2
    q, k, p, v = (part.view(150, 2, width) for part in (query, key, share, value))
    q, k, p = (2 * q).softmax(-1), (2 * k).softmax(-1), (4 * p).softmax(-1)
    for t in (0, 1, 70, 149):
        weight = width * (q[t] * k[: t + 1]).sum(-1, keepdim=True) * p[: t + 1]
        average = (weight * v[: t + 1]).sum(0) / (weight.sum(0) + 1 / 8)
        read = torch.cat([average, (1 + 8 * weight.sum(0)).log()], dim=-1).flatten()
        torch.testing.assert_close(output[0, t], layer.output(read), rtol=1e-9, atol=1e-9)


def test_the_convolution_is_torchs_and_starts_with_the_present() -> None:
    torch.manual_seed(0)
    layer, x = ShortConvolution(SIZE).double(), torch.randn(2, 9, SIZE, dtype=torch.float64)
    output, last = layer(x, torch.zeros(2, layer.state_size, dtype=torch.float64))
    torch.testing.assert_close(output, convolution_of(x, layer))
    torch.testing.assert_close(last, x[:, -3:].flatten(1))
    assert layer.weight[-1].eq(1).all()
    assert layer.weight[:-1].abs().max() <= 0.5


def convolution_of(x: Tensor, layer: ShortConvolution) -> Tensor:
    """Torch's causal convolution of each unit, with zeros before the first step."""
    weight = layer.weight.T[:, None]
    return functional.conv1d(
        functional.pad(x.mT, (WIDTH - 1, 0)), weight, groups=weight.shape[0]
    ).mT


@pytest.mark.parametrize("kind", ["recurrence", "retention", "linear_attention"])
def test_one_block_binds_what_came_one_step_apart(kind: MemoryKind) -> None:
    """A key comes with the first step, its value with the second; read again by the key, the value
    is told, among other pairs that came between them."""
    torch.manual_seed(0)
    memory = build_memory(kind, 10, 32, layers=1, window=WINDOW)
    memory.initialize()
    read = torch.nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*memory.parameters(), *read.parameters()], lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        keys = torch.stack([torch.randperm(4, generator=generator) for _ in range(64)])
        values = torch.randn(64, 4, generator=generator)
        x = torch.zeros(64, 9, 10)
        x[:, 0:8:2, :4] = functional.one_hot(keys, 4).float()
        x[:, 1:8:2, 4] = values
        x[:, 8, 5:9] = functional.one_hot(keys[:, 1], 4).float()
        output, _ = memory(x, torch.zeros(64, memory.state_size))
        error = (read(output[:, -1]).squeeze(-1) - values[:, 1]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.3  # 1 without knowledge


def test_attention_is_torchs_within_its_window() -> None:
    """Rotary positions change a score only by how far apart two steps are, so that a window may
    count them from any step."""
    torch.manual_seed(0)
    layer, x = Attention(SIZE, window=WINDOW).double(), torch.randn(2, 30, SIZE).double()
    output, _ = layer(x, torch.zeros(2, layer.state_size, dtype=torch.float64))
    for t in (0, 3, 6, 7, 29):
        seen = x[:, max(0, t + 1 - WINDOW) : t + 1]
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in layer.inputs(seen).chunk(3, dim=-1)
        )
        turned = [rotate(part, range(11, 11 + seen.shape[1])) for part in (q, k)]
        read = functional.scaled_dot_product_attention(turned[0][:, :, -1:], turned[1], v)
        torch.testing.assert_close(output[:, t], layer.output(read.transpose(1, 2).flatten(1)))


def rotate(x: Tensor, positions: range) -> Tensor:
    """Pairs of units turned by angles that are proportional to the position: complex numbers."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    speed = 1000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.tensor(list(positions), dtype=torch.float64)[:, None] * speed
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def test_the_head_that_never_forgets_counts() -> None:
    assert math.isinf(HALF_LIVES[0])
    layer = Retention(SIZE)
    assert layer.log_decays[0] == 0


def test_a_memory_that_cannot_be_built_says_why() -> None:
    with pytest.raises(UserError, match=r"agent\.memory gru has one layer"):
        build_memory("gru", INPUTS, SIZE, layers=2, window=WINDOW)
    with pytest.raises(UserError, match=r"retention needs .* multiple of 4, not 18"):
        build_memory("retention", INPUTS, 18, layers=1, window=WINDOW)
    with pytest.raises(UserError, match=r"retention needs .* at least 16, .* not 4"):
        build_memory("retention", INPUTS, 4, layers=1, window=WINDOW)
    with pytest.raises(UserError, match=r"transformer needs .* multiple of 8, not 12"):
        build_memory("transformer", INPUTS, 12, layers=1, window=WINDOW)
    with pytest.raises(UserError, match="mixed is retention and recurrence"):
        build_memory("mixed", INPUTS, SIZE, layers=1, window=WINDOW)
