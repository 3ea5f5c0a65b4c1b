"""One policy per task: networks of one shape, whose parameters are the rows of one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from metarl.nn.distributions import ActionDistribution
from metarl.nn.policies import MLPPolicy, RunningNormalizer
from metarl.system.memory import check_memory

Layer = tuple[Float[Tensor, "_ _"], Float[Tensor, " _"]]
"""Weight and bias of a layer."""


class TaskPolicies(nn.Module):
    """The policies of G tasks, with parameters in the rows of `G P`, and their starting point.

    The module holds what is learned across tasks, the *meta-parameters*: the starting point of
    adaptation (P numbers), followed, with `learn_step_size`, by one step size per parameter (P
    more). The adapted parameters of the tasks are arguments of its methods.
    """

    step_size: Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        hidden_sizes: tuple[int, ...],
        initial_std: float = 1.0,
        min_std: float = 1e-6,
        learn_std: bool = True,
        normalize_obs: bool = False,
        step_size: float,
        learn_step_size: bool = False,
    ) -> None:
        super().__init__()
        self.widest = max(hidden_sizes, default=1)
        self.learn_step_size = learn_step_size
        self.policy = MLPPolicy(
            observation_space,
            action_space,
            hidden_sizes=hidden_sizes,
            initial_std=initial_std,
            min_std=min_std,
            learn_std=learn_std,
        )
        obs_size = int(observation_space.shape[0])
        self.normalizer = RunningNormalizer(obs_size) if normalize_obs else None
        self._adapted = {n: p for n, p in self.policy.named_parameters() if p.requires_grad}
        sizes = torch.full((len(self.start()),), step_size)
        if learn_step_size:
            self.step_size = nn.Parameter(sizes)
        else:
            self.register_buffer("step_size", sizes)

    # -- what is learned across tasks --------------------------------------------------------------

    def start(self) -> Float[Tensor, " P"]:
        """The starting point of adaptation: the policy's parameters as one vector."""
        return parameters_to_vector(self._adapted.values()).detach()

    def start_of_each(self, num_tasks: int) -> Float[Tensor, "G P"]:
        """The starting point, repeated for each task.

        Raises:
            UserError: the parameters do not fit into memory.
        """
        start = self.start()
        check_memory(
            start.nbytes * num_tasks, f"{len(start):,} parameters of each of {num_tasks:,} tasks"
        )
        return start.repeat(num_tasks, 1)

    def learned(self) -> list[nn.Parameter]:
        """The parameters of the outer learner: the starting point, then learned step sizes."""
        step_sizes = [self.step_size] if isinstance(self.step_size, nn.Parameter) else []
        return [*self._adapted.values(), *step_sizes]

    def meta_parameters(self) -> Float[Tensor, " D"]:
        """The meta-parameters as one vector (D = P or 2 P)."""
        return parameters_to_vector(self.learned()).detach()

    def set_meta_parameters(self, meta: Float[Tensor, " D"]) -> None:
        """Replaces the meta-parameters by a vector of the same layout."""
        vector_to_parameters(meta.clone(), self.learned())  # the parameters become views of it

    def set_gradient(self, gradient: Float[Tensor, " D"]) -> None:
        """Sets the gradients of the learned parameters, for an optimizer to use."""
        parameters = self.learned()
        parts = gradient.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    # -- the parameters of one task ----------------------------------------------------------------

    def parts(self, row: Float[Tensor, " P"]) -> tuple[list[Layer], Float[Tensor, " A"] | None]:
        """The layers of the network, and the log standard deviation if it is adapted, as views."""
        named = self._named(row)
        log_std = named.pop("log_std", None)
        views = list(named.values())
        return list(zip(views[::2], views[1::2], strict=True)), log_std

    def row(
        self, layers: Sequence[Layer], log_std: Float[Tensor, " A"] | None
    ) -> Float[Tensor, " P"]:
        """The inverse of `parts`."""
        first = [] if log_std is None else [log_std]
        return torch.cat([*first, *(part.flatten() for layer in layers for part in layer)])

    # -- acting ------------------------------------------------------------------------------------

    def distribution(
        self, parameters: Float[Tensor, "G P"], obs: Float[Tensor, "G M O"]
    ) -> ActionDistribution:
        """The action distribution of each task's policy at M observations from `scaled`."""

        def forward(parameters: Tensor, obs: Tensor) -> tuple[Tensor, ...]:
            return functional_call(self.policy, self._named(parameters), (obs,))

        return self.policy.distribution(*vmap(forward)(parameters, obs))

    @torch.no_grad()
    def act(
        self,
        parameters: Float[Tensor, "G P"],
        obs: Float[Tensor, "N O"],
        *,
        generator: torch.Generator | None,
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"]]:
        """Actions of each task's own policy, and their log-probabilities.

        Without a generator the mode is taken. The slots of a task are adjacent, and all tasks have
        the same number of slots.
        """
        by_task = self.scaled(obs).unflatten(0, (len(parameters), -1))
        policy = self.distribution(parameters, by_task)
        action = policy.mode() if generator is None else policy.sample(generator)
        return action.flatten(0, 1), policy.log_prob(action).flatten(0, 1)

    def scaled(self, obs: Float[Tensor, "*batch O"]) -> Float[Tensor, "*batch O"]:
        """Observations as the policy takes them: normalized, if the policy has a normalizer."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def update_normalizer(self, obs: Float[Tensor, "*batch O"]) -> None:
        """Adds observations to the running statistics, if observations are normalized. This
        changes the policies, also those that acted on these observations."""
        if self.normalizer is not None:
            self.normalizer.update(obs)

    def metrics(self) -> dict[str, float]:
        """Mean step size and mean standard deviation of actions, to be logged."""
        metrics = {"inner_learning_rate": float(self.step_size.detach().mean())}
        if not self.policy.discrete:
            log_std = self.policy.log_std.detach().clamp(min=self.policy.min_log_std)
            metrics["std"] = float(log_std.exp().mean())
        return metrics

    def _named(self, parameters: Float[Tensor, " P"]) -> dict[str, Tensor]:
        parts = parameters.split([p.numel() for p in self._adapted.values()])
        named = zip(self._adapted.items(), parts, strict=True)
        return {name: part.view(original.shape) for (name, original), part in named}
