"""The checker finds what it is there to find, and nothing in our own algorithms."""

from pathlib import Path

import pytest

from metarl.check_agent import findings
from metarl.training.experiment import config_of

EXAMPLE = Path(__file__).parents[2] / "docs/examples/sum_memory.py"


@pytest.mark.parametrize("kind", ["rl2", "maml_trpo", "promp", "varibad", "pearl"])
def test_nothing_is_wrong_with_ours(kind: str) -> None:
    assert findings(config_of(kind, "metarl.agents").small()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        (
            "with torch.random.fork_rng(devices=[]):\n            torch.manual_seed(seed)",
            "with torch.random.fork_rng(devices=[]):",
            "the same state_dict for another seed",
        ),
        ("torch.random.fork_rng(devices=[])", "torch.random.fork_rng([], enabled=False)", "global"),
        ("(rollout,) = trial", "(rollout,) = trial; torch.rand(1)", "global stream"),
        (
            "policy.mode() if generator is None else policy.sample(generator)",
            "policy.sample(generator or torch.Generator().manual_seed(id(step)))",
            "should take the policy's mode",
        ),
        ("return action, policy.log_prob(action), state",
         "return action, policy.log_prob(action)[:, None], state", "act returns log_prob of shape"),
        (
            "state = state + earned(step)",
            "state = state + earned(step).flip(0)",
            "depend on the tasks that are played beside it",
        ),
        (
            "outputs = self.network(torch.cat([memory /",
            "outputs = self.network(torch.cat([(memory - memory.mean(0)) /",
            "depend on the tasks that are played beside it",
        ),
        (
            'return {"policy_loss": float(loss.detach()), ',
            'return {"policy_loss": loss.detach(), ',
            "'policy_loss': Tensor; metrics are floats",
        ),
        (
            "**optim.state_dict(self.optimizer, self.network)}",
            "**optim.state_dict(torch.optim.Adam(self.network.parameters()), self.network)}",
            "resume",
        ),
        ("(to_come - to_come.mean(0))", "(to_come / 0 - to_come.mean(0))", "not finite"),
        ("    def adapt(", "    def adopt(", "has no adapt; add it"),
        ("return TrialShape(episodes=episodes)", "return TrialShape(episodes=1 / 0)", "line"),
    ],
)  # fmt: skip
def test_a_mistake_is_found(tmp_path: Path, right: str, wrong: str, found: str) -> None:
    text = EXAMPLE.read_text()
    assert right in text
    module = tmp_path / "mine.py"
    module.write_text(text.replace(right, wrong))
    config = config_of(f"{module}:SumMemoryConfig", "metarl.agents")
    assert any(found in line for line in findings(config())), findings(config())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return DiagonalGaussian(known, known)", None),
        ("return known", "should return a DiagonalGaussian"),
        ("return DiagonalGaussian(known[:, 1:], known[:, 1:])", "mean of shape"),
        (
            "return DiagonalGaussian(known / 0, known)",
            "the mean of the agent's beliefs",
        ),
        ("return DiagonalGaussian(known, known * 0 + 100)", "standard deviation of the agent's"),
        ("known = known.flip(1); return DiagonalGaussian(known, known)", "came after it"),
        ("return DiagonalGaussian(known * 0, known.flip(1))", "came after it"),
        (
            "done = torch.cat([r.action for r in trial], 1).float().cumsum(1); "
            "done = done.reshape(*known.shape[:2], -1); return DiagonalGaussian(done, done * 0)",
            "came after it",
        ),
        (
            "known = known.mean(0, keepdim=True).expand_as(known); "
            "return DiagonalGaussian(known, known)",
            "depend on the tasks",
        ),
        ("return DiagonalGaussian(known + torch.randn(1), known)", "draws from a global stream"),
        ("trial[0].reward.clamp_(min=0); return DiagonalGaussian(known, known)", "changes the tri"),
        ("return DiagonalGaussian(known * self.network[0].weight.sum(), known)", None),
    ],
)
def test_beliefs_are_checked_too(tmp_path: Path, body: str, found: str | None) -> None:
    method = f"""    def beliefs(self, trial):
        known = torch.cat([earned(rollout.seen) for rollout in trial], 1).cumsum(1)
        {body}

    def adapt("""
    module = tmp_path / "mine.py"
    module.write_text(EXAMPLE.read_text().replace("    def adapt(", method, 1))
    config = config_of(f"{module}:SumMemoryConfig", "metarl.agents")
    lines = findings(config())
    assert [found in line for line in lines] == [True] if found else lines == [], lines
