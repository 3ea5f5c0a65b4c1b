"""The GRU's pass over time on the processor, with its derivative.

Only the product of the hidden state with its weights has to wait for the step before. The inputs'
product is taken for all steps at once by the caller, and the weights' derivative is one product
over all steps; torch takes one for each step. The rest of a step is one compiled loop.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# Pyright takes Numba's scalar types for Python's.

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.nn.memories.compiled import ONE, compiled, sigmoid, tanh


class GRUScan(torch.autograd.Function):
    """Hidden states of a GRU (r, z, n as in torch's documentation) from its inputs' product."""

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
            _step(t, *arrays)
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
            _step_back(t, *arrays)
            torch.addmm(carried, now, weight, out=carried)
        slopes, states = of_products.flatten(0, 1), before.flatten(0, 1)
        if ctx.rounded:
            of_weight = (slopes.bfloat16().T @ states.bfloat16()).float()
        else:
            of_weight = slopes.T @ states
        return of_inputs, carried, of_weight, slopes.sum(0)


@compiled
def _cell(x, product, bias, before, gates, hidden):
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
def _step(t, inputs, product, bias, before, gates, hidden):
    for n in range(len(before)):
        _cell(inputs[n, t], product[n], bias, before[n], gates[n, t], hidden[n, t])
        before[n, :] = hidden[n, t]


@compiled
def _cell_back(gates, before, of_hidden, carried, of_candidate, now):
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
def _step_back(t, gates, before, of_hidden, carried, now, of_inputs, of_products):
    size = carried.shape[1]
    for n in range(len(carried)):
        by_inputs = of_inputs[n, t]
        _cell_back(
            gates[n, t], before[n, t], of_hidden[n, t], carried[n], by_inputs[2 * size :], now[n]
        )
        by_inputs[: 2 * size] = now[n, : 2 * size]
        of_products[n, t, :] = now[n]
