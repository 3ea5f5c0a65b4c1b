"""An agent that does not learn and keeps all its inputs."""

import torch

from metarl.types import Rollout, TimeStep


class SpyAgent:
    """Agent with a constant action; its state counts calls of `act`, and adapting adds 1,000."""

    device = torch.device("cpu")

    def __init__(self, action: torch.Tensor) -> None:
        self.action = action
        self.shown: list[TimeStep] = []
        self.adapted: list[Rollout] = []

    def begin_trial(self, num_slots):
        return torch.zeros(num_slots)

    def act(self, state, step, *, generator):
        self.shown.append(step)
        return self.action, torch.zeros(len(state)), state + 1

    def adapt(self, state, rollout):
        self.adapted.append(rollout)
        return state + 1000

    def meta_update(self, trial, *, generator):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, tensors):
        pass
