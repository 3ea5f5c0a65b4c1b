"""Value targets: what a value head predicts of a return, its loss, and the return it stands for."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.learning import optim
from metarl.learning.two_hot import NUM_BINS, two_hot_loss, two_hot_mean
from metarl.nn.policies import RunningNormalizer

ValueLoss = Literal["squared", "two_hot"]


def value_error(
    value: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """Half the squared error of the value head, a mean over steps (L^VF in eq. 9 of PPO)."""
    return 0.5 * (value - target).square().mean()


def signed_root(returns: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Signed root sign(x) (√(|x| + 1) − 1) (Pohlen et al. 2018, section 3.2, no linear term)."""
    return returns.sign() * ((returns.abs() + 1).sqrt() - 1)


def signed_square(root: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The inverse of `signed_root`."""
    return root.sign() * ((root.abs() + 1).square() - 1)


class ValueTargets:
    """Returns as a value head predicts them: as they are, by their signed roots, in units of their
    running mean and standard deviation, or as a distribution over bins."""

    def __init__(
        self, *, loss: ValueLoss, normalize: bool, root: bool, device: torch.device
    ) -> None:
        self.two_hot, self.normalize, self.root = loss == "two_hot", normalize, root
        self.normalizer = RunningNormalizer(1, clip=float("inf")).to(device)

    @property
    def num_outputs(self) -> int:
        """V, outputs of the value head."""
        return NUM_BINS if self.two_hot else 1

    def loss(
        self, output: Float[Tensor, "*batch V"], returns: Float[Tensor, "*batch"]
    ) -> Float[Tensor, ""]:
        """Loss of the value head's outputs, a mean over steps."""
        if self.two_hot:
            return two_hot_loss(output, returns)
        target = self._rooted(returns)
        if self.normalize:
            target = self.normalizer(target[..., None]).squeeze(-1)
        return value_error(output.squeeze(-1), target)

    def returns_of(self, output: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
        """The returns that the value head's outputs stand for."""
        if self.two_hot:
            return two_hot_mean(output)
        if self.normalize:
            output = self.normalizer.inverse(output)
        value = output.squeeze(-1)
        return signed_square(value) if self.root else value

    def update(self, returns: Float[Tensor, "*batch"]) -> None:
        """Adds returns to the running statistics."""
        self.normalizer.update(self._rooted(returns)[..., None])

    def state_dict(self) -> dict[str, Tensor]:
        """The running statistics."""
        return {f"returns.{name}": t for name, t in self.normalizer.state_dict().items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned, from among other tensors."""
        self.normalizer.load_state_dict(optim.section(tensors, "returns."))

    def _rooted(self, returns: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return signed_root(returns) if self.root else returns
