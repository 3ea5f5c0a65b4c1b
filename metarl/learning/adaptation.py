"""Settings of agents that adapt by policy-gradient steps: policy, steps and trial shape."""

from __future__ import annotations

from gymnasium import spaces

from metarl.config import Config, Fraction, Positive, Size, Widths
from metarl.errors import UserError
from metarl.nn.task_policies import TaskPolicies
from metarl.types import TrialShape


class AdaptationConfig(Config):
    """The policy and its adaptation. Defaults are those of the Meta-World baselines."""

    hidden_sizes: Widths = (128, 128)
    """Units of each tanh layer of the policy."""
    normalize_obs: bool = False
    """Scale observations by their running mean and standard deviation. Without it a policy hardly
    sees features that matter but vary little, such as the place of an object on a table."""
    initial_std: Positive = 1.0
    """Initial standard deviation of continuous actions."""
    min_std: Positive = 1e-6
    """Lower bound of the standard deviation."""
    learn_std: bool = True
    """Learn the standard deviation (one per action dimension), or keep `initial_std`."""

    episodes_per_step: Size = 10
    """Episodes of a task for each gradient step, played in parallel in one slot each."""
    inner_learning_rate: Positive = 0.1
    """Step size of adaptation (α)."""
    learn_inner_learning_rate: bool = False
    """Learn a step size for each parameter (Meta-SGD, Li et al. 2017, arXiv:1707.09835)."""
    first_order: bool = False
    """Treat adaptation steps as constant shifts in the meta-gradient (FOMAML)."""

    discount: Fraction = 0.99
    """Discount per step, within an episode."""
    gae_lambda: Fraction = 1.0
    """λ of generalised advantage estimation."""

    def build_policies(
        self, observation_space: spaces.Box, action_space: spaces.Box | spaces.Discrete
    ) -> TaskPolicies:
        """New policies; their weights are drawn from torch's global generator."""
        return TaskPolicies(
            observation_space,
            action_space,
            hidden_sizes=self.hidden_sizes,
            initial_std=self.initial_std,
            min_std=self.min_std,
            learn_std=self.learn_std,
            normalize_obs=self.normalize_obs,
            step_size=self.inner_learning_rate,
            learn_step_size=self.learn_inner_learning_rate,
        )

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """A rollout of `episodes_per_step` episodes before each gradient step, and one at the end.

        Raises:
            UserError: `episodes` is not a multiple of `episodes_per_step`.
        """
        del training
        side_by_side = self.episodes_per_step
        if episodes % side_by_side:
            fits = max(1, round(episodes / side_by_side)) * side_by_side
            raise UserError(
                f"a trial of {episodes} episodes does not divide into agent.episodes_per_step "
                f"{side_by_side}; the nearest that does is {fits}"
            )
        return TrialShape(slots_per_task=side_by_side, rollouts=episodes // side_by_side)

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that the agent can learn from trials of this shape.

        Raises:
            UserError: a trial has no gradient step or only one environment step of a task, or
                classes would have unequal weight.
        """
        if shape.slots_per_task * horizon < 2:
            raise UserError(
                "advantages cannot be normalised over the 1 step of a task; raise "
                "agent.episodes_per_step"
            )
        if shape.rollouts < 2:
            twice = 2 * shape.slots_per_task
            raise UserError(
                f"a trial of {shape.total_episodes} episodes leaves no inner step; use "
                f"train.episodes_per_trial {twice} or more"
            )
        check_meta_batch(num_tasks, num_classes)


def check_meta_batch(num_tasks: int, num_classes: int) -> None:
    """Checks that all task classes have the same weight in every meta-gradient.

    Raises:
        UserError: the number of tasks is not a multiple of the number of classes.
    """
    if num_tasks % num_classes:
        fits = max(1, round(num_tasks / num_classes)) * num_classes
        raise UserError(
            f"train.meta_batch_size {num_tasks} is no multiple of the {num_classes} task classes; "
            f"use {fits}"
        )
