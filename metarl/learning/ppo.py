"""PPO's losses, for agents whose objective is the return of a whole trial (RL², VariBAD).

Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn

from metarl.config import Config, Fraction, Positive, Size
from metarl.learning.values import ValueLoss, ValueTargets
from metarl.nn.distributions import ActionDistribution
from metarl.system import ranks
from metarl.types import TrialShape


class PPOConfig(Config):
    """PPO on the return of a whole trial: policy, returns, value head and optimizer."""

    learn_std: bool = True
    """Learn the policy's standard deviation (one per action dimension), or keep `initial_std`, or
    what `std_decay` leaves of it."""
    initial_std: Positive = 1.0
    """Initial standard deviation of continuous actions."""
    min_std: Positive = 1e-6
    """Lower bound of the standard deviation."""
    std_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the standard deviation after each update, down to `min_std`; if it is learned too,
    learning goes on from there. Agents may sense by the noise of their actions what they cannot
    observe; as it fades, they have to look on purpose. For continuous actions."""

    discount: Fraction = 0.99
    """Discount per step, over the whole trial: returns reach across episode boundaries."""
    gae_lambda: Fraction = 0.95
    """λ of generalised advantage estimation."""
    normalize_advantages: Literal["batch", "trial"] = "batch"
    """Normalize advantages to mean 0 and standard deviation 1 over the whole batch, or within each
    trial, which gives tasks with small rewards the same weight as those with large rewards."""
    reward_scale: Positive = 1.0
    """Factor on rewards before returns are computed."""
    value_loss: ValueLoss = "squared"
    """Loss of the value head: the squared error, or the cross-entropy of a distribution over
    returns of all sizes (DreamerV3), which needs neither `normalize_values` nor `root_values`."""
    normalize_values: bool = True
    """Let the value head predict returns in units of their running mean and standard deviation."""
    root_values: bool = False
    """Let the value head predict signed square roots of returns, before any normalization; this
    reduces its error on tasks with small rewards (Pohlen et al. 2018, arXiv:1805.11593, section
    3.2, without the linear term)."""

    learning_rate: Positive = 5e-4
    """Step size of Adam."""
    learning_rate_decay: Fraction = 1.0
    """Factor on the step size after each update."""
    max_grad_norm: Positive = 1.0
    """Norm that longer gradients are clipped to."""
    clip: Positive = 0.2
    """Clip of the probability ratio, to 1 ± this (PPO's ε)."""
    epochs: Size = 10
    """Passes over the experience in one update."""
    num_minibatches: Size = 4
    """Gradient steps per pass, each on its share of the experience."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus."""
    entropy_coef_decay: Fraction = 1.0
    """Factor on this weight after each update. A large bonus at first keeps the policy near uniform
    until the memory knows what every action pays; without it, the policy settles on some of many
    actions by chance."""
    value_coef: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the value loss."""
    max_kl: Positive | None = None
    """KL from the policy that acted (nats) above which the passes of an update stop."""

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """Consecutive episodes in one slot, as a single rollout."""
        del training
        return TrialShape(episodes=episodes)

    def value_targets(self, device: torch.device) -> ValueTargets:
        """What the value head predicts."""
        return ValueTargets(
            loss=self.value_loss,
            normalize=self.normalize_values,
            root=self.root_values,
            device=device,
        )


def ppo_optimizer(network: nn.Module, config: PPOConfig) -> torch.optim.Adam:
    """Adam on what a network learns; its parameter group also holds the entropy bonus's weight, if
    that decays."""
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate, eps=1e-5)
    if config.entropy_coef_decay < 1:
        optimizer.param_groups[0]["entropy_coef"] = config.entropy_coef
    return optimizer


def entropy_coef(optimizer: torch.optim.Optimizer, config: PPOConfig) -> float:
    """The present weight of the entropy bonus."""
    return optimizer.param_groups[0].get("entropy_coef", config.entropy_coef)


def clipped_surrogate(
    ratio: Float[Tensor, "*batch"], advantage: Float[Tensor, "*batch"], *, clip: float
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate, a mean over steps (Schulman et al. 2017, eq. 7).

    Args:
        ratio: π(a|s) / π_acted(a|s).
    """
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio * advantage, clipped * advantage).mean()


def kl_from_acting(log_ratio: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Estimate of KL(π_acted ‖ π) in nats: the mean of r − 1 − log r, with r = π / π_acted, over
    actions sampled from π_acted. It is unbiased and, unlike that of −log r, never negative."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def normalized(advantage: Float[Tensor, "N T"], *, each_trial: bool) -> Float[Tensor, "N T"]:
    """Advantages with mean 0 and standard deviation 1, over all trials (of all ranks) or within
    each trial."""
    if each_trial:
        mean, std = advantage.mean(1, keepdim=True), advantage.std(1, keepdim=True)
    elif ranks.number() == 1:
        mean, std = advantage.mean(), advantage.std()
    else:
        _, mean, variance = ranks.moments(advantage.flatten())
        std = variance.sqrt()
    return (advantage - mean) / (std + 1e-8)


def ppo_loss(
    policy: ActionDistribution,
    value: Float[Tensor, "*batch V"] | None,
    *,
    action: Shaped[Tensor, "*batch *A"],
    log_prob: Float[Tensor, "*batch"],
    advantage: Float[Tensor, "*batch"],
    returns: Float[Tensor, "*batch"],
    targets: ValueTargets,
    optimizer: torch.optim.Optimizer,
    config: PPOConfig,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """PPO's loss (eq. 9): clipped surrogate, entropy bonus and value error; and metrics.

    Args:
        policy: the present policy at each step.
        value: outputs of the value head, if it is to learn.
        action: actions that were taken.
        log_prob: their log-probabilities when they were taken.
        advantage: normalized advantages.
        returns: targets of the value head, as returns.
        targets: what the value head predicts of a return.
        optimizer: holds the present weight of the entropy bonus.
        config: clip and weights.
    """
    log_ratio = policy.log_prob(action) - log_prob
    ratio = log_ratio.exp()
    policy_loss = -clipped_surrogate(ratio, advantage, clip=config.clip)
    entropy = policy.entropy().mean()
    loss = policy_loss - entropy_coef(optimizer, config) * entropy
    metrics = {"policy_loss": policy_loss, "entropy": entropy}
    if value is not None:
        value_loss = targets.loss(value, returns)
        loss = loss + config.value_coef * value_loss
        metrics["value_loss"] = value_loss
    metrics["kl"] = kl_from_acting(log_ratio.detach())
    metrics["clipped"] = ((ratio - 1).abs() > config.clip).float().mean()
    return loss, {name: metric.detach() for name, metric in metrics.items()}


def ppo_passes(
    loss: Callable[[Int[Tensor, " m"]], tuple[Float[Tensor, ""], dict[str, Tensor]]],
    optimizer: torch.optim.Optimizer,
    *,
    num_rows: int,
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Gradient steps on shuffled minibatches, in `config.epochs` passes over the rows of all ranks.

    Args:
        loss: function from the indices of a minibatch's own rows to their loss and metrics, means
            over these rows; metrics include `kl`.
        optimizer: steps along the gradients, once they are clipped.
        num_rows: number of own rows of experience, such as chunks of trials.
        config: says how many passes and minibatches.
        generator: random stream of the order of rows.

    Returns:
        Means of the metrics over all steps; `kl` is that of the last pass.
    """
    history: dict[str, list[Tensor]] = defaultdict(list)

    def mean(of_steps: Sequence[Tensor]) -> float:
        return float(ranks.summed(torch.stack(list(of_steps))).mean())

    def last_kl() -> float:
        return mean(history["kl"][-config.num_minibatches :])

    place = ranks.place_of(num_rows)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(config.epochs):
        order = torch.randperm(place.total, generator=generator, device=generator.device)
        for chosen in order.chunk(config.num_minibatches):
            rows = place.chosen(chosen)
            share = len(rows) / len(chosen)
            value, metrics = loss(rows if share else torch.zeros_like(chosen[:1]))
            optimizer.zero_grad()
            (share * value).backward()
            ranks.sum_gradients(parameters)
            metrics["gradient_norm"] = torch.nn.utils.clip_grad_norm_(
                parameters, config.max_grad_norm
            )
            optimizer.step()
            for name, metric in metrics.items():
                history[name].append(share * metric)
        if config.max_kl is not None and last_kl() > config.max_kl:
            break
    metrics = {name: mean(values) for name, values in history.items()}
    metrics["kl"] = last_kl()
    metrics["epochs"] = len(history["kl"]) / config.num_minibatches
    return metrics


@torch.no_grad()
def decay(
    optimizer: torch.optim.Optimizer, log_std: Float[Tensor, " A"], config: PPOConfig
) -> dict[str, float]:
    """Lets step size, entropy bonus and standard deviation decay, after an update; returns what
    they were in it, as metrics."""
    group = optimizer.param_groups[0]
    metrics = {
        "std": float(log_std.exp().mean()),
        "learning_rate": group["lr"],
        "entropy_coef": entropy_coef(optimizer, config),
    }
    group["lr"] *= config.learning_rate_decay
    if "entropy_coef" in group:
        group["entropy_coef"] *= config.entropy_coef_decay
    if config.std_decay < 1:
        log_std.copy_((log_std + math.log(config.std_decay)).clamp(min=math.log(config.min_std)))
    return metrics
