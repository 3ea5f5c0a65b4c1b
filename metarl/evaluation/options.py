"""Options of an evaluation, and what each applies to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from metarl.config import Config, Seed, Size, flag, given_options
from metarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Applies:
    """Tag of an option: what it applies to."""

    trials: bool = True
    """Evaluation of an agent that acts."""
    few_shot: bool = False
    """Evaluation of a few-shot learner."""
    live: bool = False
    """Watching an agent play."""
    result: bool = False
    """It changes what is measured, so it is stored with the result and part of its file's name."""
    needs: tuple[str, ...] = ()
    """Options of which one has to be given too."""


EVERYWHERE = Applies(few_shot=True, live=True, result=True)
PLAYING = Applies(live=True, result=True)
RESULT = Applies(result=True)

ShotCounts = Annotated[
    tuple[Size, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
]
"""One number, or several."""


class EvaluationOptions(Config):
    """How to evaluate."""

    split: Annotated[Literal["train", "test"], EVERYWHERE] = "test"
    """Held-out tasks, or those that the agent learned on."""
    episodes: Annotated[Size | None, EVERYWHERE] = None
    """Episodes of experience with each task; where not given as in training, and of a published run
    as it is published. Of few-shot learning, tasks to be judged on; 600 where not given."""
    shots: Annotated[ShotCounts | None, Applies(trials=False, few_shot=True, result=True)] = None
    """Of few-shot learning: numbers of support examples; 1, 5 (of functions: 5, 10) and as many as
    in training where not given."""
    tasks: Annotated[str | None, PLAYING] = None
    """Another distribution: a Meta-World benchmark, or a config file whose `env` is taken."""
    bounds: Annotated[Literal["environment"] | None, Applies(live=True)] = None
    """Bounds of actions that rule where those tasks have others than the agent was trained with;
    where not given, they have to be the same."""
    protocol: Annotated[Literal["curve", "metaworld"], PLAYING] = "curve"
    """`curve`: success after each number of episodes. `metaworld`: 10 episodes of adaptation, then
    3 test episodes, on 40 goals of each class; both are rounded up to what an agent plays side by
    side."""
    checkpoint: Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, EVERYWHERE] = None
    """Env steps (of few-shot learning: tasks) of the checkpoint; the newest where not given."""
    greedy: Annotated[bool, PLAYING] = False
    """Take the policy's mode instead of drawing from it."""
    threshold: Annotated[float, Field(gt=0, le=1), RESULT] = 0.8
    """Mean success that counts as adapted."""
    tasks_at_once: Annotated[Size, RESULT] = 50
    """Tasks that are played side by side."""
    seed: Annotated[Seed, EVERYWHERE] = 0
    """Of the actions, the environments and the bootstrap; of few-shot learning, the tasks."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Applies(few_shot=True, live=True)] = "auto"
    """Where the agent lives."""
    output: Annotated[str | None, Applies(few_shot=True)] = None
    """Folder that results go to, each run's in one of its own; those of a run go into the run where
    not given."""
    stored: Annotated[bool, Applies(few_shot=True)] = False
    """Read what this command stored before instead of playing again."""
    report: Annotated[bool, Applies(few_shot=True)] = False
    """Write a page with all pictures, tables and an interactive replay."""
    replay: bool = False
    """Write the interactive replay alone; with --compare, put it on the page."""
    video: bool = False
    """Render MP4s of the first and last episode side by side; they go into the report too."""
    camera: Annotated[str | None, Applies(needs=("video",))] = None
    """Of the videos; the scene's best where not given."""
    fine: Annotated[bool, Applies(needs=("video",))] = False
    """Draw videos with smooth edges and fine shadows: three times slower without a GPU."""
    record: Annotated[Size, Applies(needs=("report", "replay", "video"))] = 4
    """Tasks whose rollouts are kept for replay and video; those that fail come first, and with
    --compare those on which agents differ."""
    compare: bool = False
    """Put several runs on one page."""
    yardstick: Annotated[bool, Applies(needs=("report", "compare"))] = False
    """Let Stable-Baselines3 learn some held-out tasks from nothing, and others play them; kept for
    the next time. Ten minutes or more."""
    live: Annotated[bool, Applies(live=True)] = False
    """Serve the replay in a browser while the agent plays; goes on until it is stopped."""
    port: Annotated[int, Field(ge=0, le=65535), Applies(live=True, needs=("live",))] = 8300
    """Of the live replay; 0 takes a free one."""
    trust: Annotated[bool, Applies(live=True)] = False
    """Execute the module of tasks that the run names although it was not trained with here."""

    @classmethod
    def tag(cls, name: str) -> Applies:
        """What an option applies to."""
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
    """Checks that the options that were given are for such a run, and mean something together.

    Raises:
        UserError: naming the first that does not.
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
            raise UserError("--shots is for few-shot learning; episodes of a trial are --episodes")
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
