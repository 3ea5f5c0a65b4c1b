"""Passes over time on the processor, with their derivatives: the linear recurrence, and the GRU.

Torch would write and read a dozen tensors in between. Here a time step is computed while it is in
the cache; loops are short and touch few arrays, so that LLVM vectorises them. The recurrence's
formulas are in `metarl.nn.memories.recurrence`.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# Pyright takes Numba's scalar types for Python's.

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numba import float32, njit
from torch import Tensor

TANH_IS_ONE = float32(7.90531110763549805)
TANH_ABOVE = tuple(
    float32(c)
    for c in (
        -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
    )
)  # fmt: skip
TANH_BELOW = tuple(
    float32(c)
    for c in (
        1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03,
    )
)  # fmt: skip
"""Coefficients of Eigen's rational approximation of tanh, exact to a few last digits."""
LEAST = 1e-6
"""Least 1 - a² that inputs are scaled by: below, its root has no useful slope."""
ONE, HALF, FOUR = float32(1), float32(0.5), float32(4)
LEAST_SQUARE = float32(LEAST)


def compiled(function: Callable) -> Callable:
    """A loop in machine code, kept on disk. All that it is made of is in this file, whose change
    compiles it anew."""
    function = inspect.unwrap(function)
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder to keep it in
        return njit(**options)(function)


def inlined(function: Callable) -> Callable:
    """A formula that is compiled into the loops that use it."""
    return njit(inline="always", error_model="numpy")(inspect.unwrap(function))


class GatedScan(torch.autograd.Function):
    """`gated_scan` of `metarl.nn.memories.recurrence`, in single precision on the processor."""

    @staticmethod
    def forward(
        ctx,
        inputs: Float[Tensor, "N T E"],
        gates: Float[Tensor, "N T E"],
        rate: Float[Tensor, " D"],
        first: Float[Tensor, "N D"],
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N D"]]:
        """Units times their branch, and the last units."""
        inputs, gates, first = inputs.contiguous(), gates.contiguous(), first.contiguous()
        units = torch.empty(*inputs.shape[:2], rate.shape[0])
        output = torch.empty_like(units)
        _forward(*(x.numpy() for x in (inputs, gates, rate, first, units, output)))
        ctx.save_for_backward(inputs, gates, rate, first, units)
        return output, units[:, -1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, of_output: Float[Tensor, "N T D"], of_last: Float[Tensor, "N D"]
    ) -> tuple[Tensor, ...]:
        """Slopes by all four arguments."""
        inputs, gates, rate, first, units = ctx.saved_tensors
        slopes = [torch.empty_like(x) for x in (inputs, gates)]
        of_rate, of_first = torch.zeros_like(rate), of_last.clone().contiguous()
        given = (inputs, gates, rate, first, units, of_output.contiguous())
        _backward(*(x.numpy() for x in (*given, *slopes, of_rate, of_first)))
        return *slopes, of_rate, of_first


@inlined
def tanh(x):
    """The hyperbolic tangent in single precision."""
    x = min(max(x, -TANH_IS_ONE), TANH_IS_ONE)
    square = x * x
    above, below = TANH_ABOVE[0], TANH_BELOW[0]
    for k in range(1, 7):
        above = above * square + TANH_ABOVE[k]
    for k in range(1, 4):
        below = below * square + TANH_BELOW[k]
    return x * above / below


@inlined
def sigmoid(x):
    """The logistic function in single precision."""
    return HALF + HALF * tanh(HALF * x)


@compiled
def _decay(gate, rate, decay, scale):
    """a = exp(-y) and √(1 - a²) for y = rate σ(gate), through tanh(y / 2), which loses no digits
    where a is close to 1."""
    for d in range(len(rate)):
        half = tanh(HALF * rate[d] * sigmoid(gate[d]))
        share = ONE / (ONE + half)
        decay[d] = (ONE - half) * share
        scale[d] = np.sqrt(max(FOUR * half * share * share, LEAST_SQUARE))


@compiled
def _step(u, gate, decay, scale, before, units):
    for d in range(len(units)):
        units[d] = decay[d] * before[d] + scale[d] * sigmoid(gate[d]) * u[d]


@compiled
def _read(units, branch, output):
    for d in range(len(units)):
        output[d] = units[d] * branch[d] * sigmoid(branch[d])


@compiled
def _forward(inputs, gates, rate, first, units, output):
    slots, steps, size = units.shape
    decay, scale = np.empty(size, np.float32), np.empty(size, np.float32)
    for n in range(slots):
        before = first[n]
        for t in range(steps):
            _decay(gates[n, t, :size], rate, decay, scale)
            _step(inputs[n, t, :size], gates[n, t, size:], decay, scale, before, units[n, t])
            _read(units[n, t], inputs[n, t, size:], output[n, t])
            before = units[n, t]


@compiled
def _by_branch(units, branch, of_output, of_branch, of_units):
    """Adds to the slope by the units; a slope `of_x` is that of the loss by x."""
    for d in range(len(units)):
        gate = sigmoid(branch[d])
        of_branch[d] = of_output[d] * units[d] * gate * (ONE + branch[d] * (ONE - gate))
        of_units[d] += of_output[d] * branch[d] * gate


@compiled
def _by_input(u, gate, scale, of_units, of_u):
    for d in range(len(u)):
        of_u[d] = of_units[d] * scale[d] * sigmoid(gate[d])


@compiled
def _by_gate(u, gate, scale, of_units, of_gate, of_scale):
    for d in range(len(u)):
        take = sigmoid(gate[d])
        of_scale[d] = of_units[d] * take * u[d]
        of_gate[d] = of_scale[d] * scale[d] * (ONE - take)


@compiled
def _by_exponent(decay, scale, before, of_units, of_scale):
    """Turns `of_scale` into the slope by y, with a = exp(-y)."""
    for d in range(len(decay)):
        constant = scale[d] * scale[d] <= LEAST_SQUARE
        by_scale = float32(0) if constant else of_scale[d] * decay[d] * decay[d] / scale[d]
        of_scale[d] = by_scale - decay[d] * of_units[d] * before[d]


@compiled
def _by_rate(gate, rate, of_exponent, of_gate, of_rate):
    for d in range(len(rate)):
        remember = sigmoid(gate[d])
        of_rate[d] += of_exponent[d] * remember
        of_gate[d] = of_exponent[d] * rate[d] * remember * (ONE - remember)


@compiled
def _backward(inputs, gates, rate, first, units, of_output, of_inputs, of_gates, of_rate, of_first):
    slots, steps, size = units.shape
    decay, scale, kept = (
        np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    )  # fmt: skip
    for n in range(slots):
        carried = of_first[n]
        for t in range(steps - 1, -1, -1):
            before = units[n, t - 1] if t > 0 else first[n]
            u, branch = inputs[n, t, :size], inputs[n, t, size:]
            forget, take = gates[n, t, :size], gates[n, t, size:]
            _by_branch(units[n, t], branch, of_output[n, t], of_inputs[n, t, size:], carried)
            _decay(forget, rate, decay, scale)
            _by_input(u, take, scale, carried, of_inputs[n, t, :size])
            _by_gate(u, take, scale, carried, of_gates[n, t, size:], kept)
            _by_exponent(decay, scale, before, carried, kept)
            _by_rate(forget, rate, kept, of_gates[n, t, :size], of_rate)
            for d in range(size):
                carried[d] *= decay[d]


# -- the GRU ---------------------------------------------------------------------------------------


class GRUScan(torch.autograd.Function):
    """Hidden states of a GRU (r, z, n as in torch's documentation) from its inputs' product.

    Only the product of the hidden state with its weights has to wait for the step before. The
    derivative by the weights is one product over all steps, where torch takes one for each.
    """

    @staticmethod
    def forward(
        ctx,
        inputs: Float[Tensor, "N T E"],
        first: Float[Tensor, "N H"],
        weight: Float[Tensor, "E H"],
        bias: Float[Tensor, " E"],
    ) -> Float[Tensor, "N T H"]:
        """Hidden states at each step.

        Args:
            inputs: W_i x + b_i for the gates r, z and n (E = 3H).
            first: hidden states before the first step.
            weight: W_h of the gates.
            bias: b_h of the gates.
        """
        inputs, before = inputs.contiguous(), first.clone(memory_format=torch.contiguous_format)
        slots, steps, _ = inputs.shape
        hidden = torch.empty(slots, steps, weight.shape[1])
        gates = torch.empty(slots, steps, 4 * weight.shape[1])
        product, transposed = torch.empty(slots, weight.shape[0]), weight.T.contiguous()
        arrays = [x.numpy() for x in (inputs, product, bias, before, gates, hidden)]
        for t in range(steps):
            torch.mm(before, transposed, out=product)
            _gru_step(t, *arrays)
        ctx.save_for_backward(first, weight, gates, hidden)
        ctx.rounded = torch.is_autocast_enabled("cpu")
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, of_hidden: Float[Tensor, "N T H"]
    ) -> tuple[Tensor, ...]:
        """Slopes by inputs, first states, weights and biases."""
        first, weight, gates, hidden = ctx.saved_tensors
        slots, steps, size = hidden.shape
        of_inputs, of_products = (torch.empty(slots, steps, 3 * size) for _ in range(2))
        now, carried = torch.empty(slots, 3 * size), torch.zeros(slots, size)
        before = torch.cat([first[:, None], hidden[:, :-1]], dim=1)
        given = (gates, before, of_hidden.contiguous(), carried, now, of_inputs, of_products)
        arrays = [x.numpy() for x in given]
        for t in reversed(range(steps)):
            _gru_back(t, *arrays)
            torch.addmm(carried, now, weight, out=carried)
        slopes, states = of_products.flatten(0, 1), before.flatten(0, 1)
        if ctx.rounded:
            of_weight = (slopes.bfloat16().T @ states.bfloat16()).float()
        else:
            of_weight = slopes.T @ states
        return of_inputs, carried, of_weight, slopes.sum(0)


@compiled
def _gru_cell(x, product, bias, before, gates, hidden):
    """One slot's step; keeps r, z, the candidate's product and n for the derivative."""
    size = len(before)
    for d in range(size):
        gates[d] = sigmoid(x[d] + product[d] + bias[d])
    for d in range(size):
        gates[size + d] = sigmoid(x[size + d] + product[size + d] + bias[size + d])
    for d in range(size):
        gates[2 * size + d] = product[2 * size + d] + bias[2 * size + d]
    for d in range(size):
        candidate = tanh(x[2 * size + d] + gates[d] * gates[2 * size + d])
        gates[3 * size + d] = candidate
        hidden[d] = candidate + gates[size + d] * (before[d] - candidate)


@compiled
def _gru_step(t, inputs, product, bias, before, gates, hidden):
    for n in range(len(before)):
        _gru_cell(inputs[n, t], product[n], bias, before[n], gates[n, t], hidden[n, t])
        before[n, :] = hidden[n, t]


@compiled
def _gru_cell_back(gates, before, of_hidden, carried, of_candidate, now):
    size = len(before)
    for d in range(size):
        slope = of_hidden[d] + carried[d]
        keep, candidate = gates[size + d], gates[3 * size + d]
        of_candidate[d] = slope * (ONE - keep) * (ONE - candidate * candidate)
        now[size + d] = slope * (before[d] - candidate) * keep * (ONE - keep)
        carried[d] = slope * keep
    for d in range(size):
        reset = gates[d]
        now[d] = of_candidate[d] * gates[2 * size + d] * reset * (ONE - reset)
        now[2 * size + d] = of_candidate[d] * reset


@compiled
def _gru_back(t, gates, before, of_hidden, carried, now, of_inputs, of_products):
    size = carried.shape[1]
    for n in range(len(carried)):
        by_inputs = of_inputs[n, t]
        _gru_cell_back(
            gates[n, t], before[n, t], of_hidden[n, t], carried[n], by_inputs[2 * size :], now[n]
        )
        by_inputs[: 2 * size] = now[n, : 2 * size]
        of_products[n, t, :] = now[n]
