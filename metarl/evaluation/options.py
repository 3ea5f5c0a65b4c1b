"""Options of an evaluation, and the kinds of evaluation that each applies to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from metarl.config import Config, Seed, Size, flag, given_options
from metarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Applies:
    """Tag of an option: the kinds of evaluation that it applies to."""

    trials: bool = True
    """Applies to the evaluation of an agent that acts."""
    few_shot: bool = False
    """Applies to the evaluation of a few-shot learner."""
    live: bool = False
    """Applies to --live."""
    result: bool = False
    """Changes the result, so it is stored with the result and is part of its file's name."""
    needs: tuple[str, ...] = ()
    """Options of which at least one must be given too."""


EVERYWHERE = Applies(few_shot=True, live=True, result=True)
PLAYING = Applies(live=True, result=True)
RESULT = Applies(result=True)
FEW_SHOT = Applies(trials=False, few_shot=True, result=True)

ShotCounts = Annotated[
    tuple[Size, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
]
"""One number, or several."""


class EvaluationOptions(Config):
    """Options of an evaluation."""

    split: Annotated[Literal["train", "test"], EVERYWHERE] = "test"
    """Split of the tasks: held-out tasks (test), or those that the agent was trained on (train)."""
    episodes: Annotated[Size | None, PLAYING] = None
    """Episodes of experience with each task; by default as many as in training, or as in the
    published evaluation of a published run."""
    num_tasks: Annotated[Size | None, FEW_SHOT] = None
    """Few-shot learning: number of tasks to evaluate; by default 600."""
    shots: Annotated[ShotCounts | None, FEW_SHOT] = None
    """Few-shot learning: numbers of support examples; by default 1 and 5 (5 and 10 for functions)
    and the number used in training."""
    tasks: Annotated[str | None, PLAYING] = None
    """Another task distribution: a Meta-World benchmark, or the `env` section of a config file."""
    bounds: Annotated[Literal["environment"] | None, Applies(live=True)] = None
    """Use the environment's bounds of actions if they differ from those of training; by default,
    differing bounds are an error."""
    protocol: Annotated[Literal["curve", "metaworld"], PLAYING] = "curve"
    """`curve`: success after each number of episodes. `metaworld`: 10 episodes of adaptation, then
    3 test episodes, on 40 goals of each class; both numbers of episodes are rounded up to a
    multiple of those that the agent plays side by side."""
    checkpoint: Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, EVERYWHERE] = None
    """Env steps (few-shot learning: tasks) of the checkpoint; by default the newest."""
    greedy: Annotated[bool, PLAYING] = False
    """Take the policy's mode instead of sampling from it."""
    threshold: Annotated[float, Field(gt=0, le=1), RESULT] = 0.8
    """Mean success from which an agent counts as adapted."""
    tasks_at_once: Annotated[Size, RESULT] = 50
    """Tasks played side by side."""
    seed: Annotated[Seed, EVERYWHERE] = 0
    """Seed of the actions, environments and bootstrap; in few-shot learning, of the tasks."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Applies(few_shot=True, live=True)] = "auto"
    """Device of the agent; auto chooses CUDA if there is a CUDA device."""
    output: Annotated[str | None, Applies(few_shot=True)] = None
    """Folder of the results, with one subfolder per run; by default results go into the run's
    folder."""
    stored: Annotated[bool, Applies(few_shot=True)] = False
    """Read the results that this command stored before, instead of playing again."""
    report: Annotated[bool, Applies(few_shot=True)] = False
    """Write a page with all pictures and tables and an interactive replay."""
    replay: bool = False
    """Write only the interactive replay; with --compare, put it on the page."""
    video: bool = False
    """Render MP4 videos of the first and last episode side by side; the report shows them too."""
    camera: Annotated[str | None, Applies(needs=("video",))] = None
    """Camera of the videos; by default the best one of the scene."""
    fine: Annotated[bool, Applies(needs=("video",))] = False
    """Draw videos with smooth edges and fine shadows; three times slower without a GPU."""
    record: Annotated[Size, Applies(needs=("report", "replay", "video"))] = 4
    """Number of tasks whose rollouts are kept for replay and video; failed tasks come first, with
    --compare those on which agents differ."""
    compare: bool = False
    """Compare several runs on one page."""
    yardstick: Annotated[bool, Applies(needs=("report", "compare"))] = False
    """Train Stable-Baselines3 on some held-out tasks from scratch and compare with it and with
    other baselines; stored for the next time. Takes ten minutes or more."""
    live: Annotated[bool, Applies(live=True)] = False
    """Show the agent playing in a browser, until stopped."""
    port: Annotated[int, Field(ge=0, le=65535), Applies(live=True, needs=("live",))] = 8300
    """Port of the live replay; 0 chooses a free one."""
    trust: Annotated[bool, Applies(few_shot=True, live=True)] = False
    """Execute the module of tasks that the run names, even if it was never trained with here."""

    @classmethod
    def tag(cls, name: str) -> Applies:
        """Tag of an option."""
        tags = [each for each in cls.model_fields[name].metadata if isinstance(each, Applies)]
        return tags[0] if tags else Applies()

    def result_options(self, *, few_shot: bool, exclude_defaults: bool = False) -> dict[str, Any]:
        """The options that a result depends on, as plain values."""
        tags = {name: self.tag(name) for name in type(self).model_fields}
        names = {
            name
            for name, tag in tags.items()
            if tag.result and (tag.few_shot if few_shot else tag.trials)
        }
        return self.model_dump(mode="json", include=names, exclude_defaults=exclude_defaults)


def check_options(options: EvaluationOptions, *, few_shot: bool) -> None:
    """Checks that the given options apply to this kind of run and make sense together.

    Raises:
        UserError: an option does not; names the first one.
    """
    given = given_options(options)
    tags = {name: options.tag(name) for name in type(options).model_fields}
    for name in given:
        if few_shot and not tags[name].few_shot:
            known = ", ".join(flag(name) for name, tag in tags.items() if tag.few_shot)
            raise UserError(
                f"{flag(name)} is not for few-shot learning, where nothing is played; {known} are"
            )
        if not few_shot and not tags[name].trials:
            raise UserError(
                f"{flag(name)} is for few-shot learning; episodes of a trial are --episodes"
            )
        if options.live and not tags[name].live:
            raise UserError(f"{flag(name)} has no meaning with --live; leave one of them out")
    for name in given:
        needed = set(tags[name].needs) - ({"report"} if options.compare else set())
        if tags[name].needs and not needed & set(given):
            known = " or ".join(flag(each) for each in tags[name].needs if each in needed)
            raise UserError(f"{flag(name)} has no meaning by itself; add {known}")
    for name in ("record", "device"):
        if name in given and options.stored and not options.yardstick:
            raise UserError(
                f"{flag(name)} is for playing, and --stored reads; leave one of them out"
            )
    if options.yardstick and (options.split == "train" or options.protocol == "metaworld"):
        raise UserError("--yardstick is for all held-out tasks; leave --split and --protocol out")
