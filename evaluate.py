"""Measures how fast a trained agent adapts to held-out tasks.

python evaluate.py runs/maml_trpo_ml1_reach/seed1            all held-out tasks
python evaluate.py RUN --checkpoint 0                        the untrained agent
python evaluate.py RUN --split train --episodes 40           training tasks, longer trials
python evaluate.py RUN --tasks ML10                          another distribution that fits
python evaluate.py RUN --protocol metaworld                  as Meta-World documents it
python evaluate.py RUN --report                              a page with pictures and a 3-D replay
python evaluate.py RUN --video --camera corner               MP4s, before and after adaptation
python evaluate.py RUN --live                                watch the agent play in a browser
python evaluate.py --compare RUN RUN … --replay              several agents or seeds on one page
python evaluate.py RUN --output DIR                          store results there, not in the run
python evaluate.py RUN --shots '[1, 5]' --report             a few-shot learner
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("evaluate.py")  # before the imports, which take seconds

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from envs.yardsticks.suite import YardsticksConfig, measure_yardsticks
from metarl.config import (
    override,
    split_command_line,
    validate,
)
from metarl.errors import UserError
from metarl.evaluation.adapt import adapt  # noqa: F401  (scripts import it from here as well)
from metarl.evaluation.few_shot_record import FewShotEvaluation
from metarl.evaluation.few_shot_trials import measure_few_shot
from metarl.evaluation.options import Applies, EvaluationOptions, check_options
from metarl.evaluation.record import (
    Evaluation,
    stored_file,
)
from metarl.evaluation.trials import (
    Trials,
    as_published,
    check_can_store,
    evaluation_file,
    find_checkpoint,
    find_trials,
    measure,
    output_folder,
    play_along,
)
from metarl.report.adaptation import adaptation_report
from metarl.report.blocks import Section
from metarl.report.evaluating import compare, evaluate, watch
from metarl.report.few_shot import few_shot_report, plot_few_shot, print_few_shot
from metarl.report.output import (
    FIRST_AND_LAST,
    can_show,
    check_shows,
    or_what_is_safe,
    or_without_picture,
    recordings_file,
    with_scenes,
    write_rollouts,
)
from metarl.report.page import write_report
from metarl.report.yardsticks import yardstick_section
from metarl.rollout.recording import Recordings, read_recordings, write_recordings
from metarl.system import ranks
from metarl.system.command_line import one_line_errors
from metarl.system.console import plain_console
from metarl.system.files import check_can_write
from metarl.system.started import typed
from metarl.training.experiment import (
    FewShotExperiment,
    load_run,
)


class EvaluationConfig(EvaluationOptions):
    """Options of an evaluation."""

    yardsticks: Annotated[YardsticksConfig, Applies(needs=("yardstick",))] = YardsticksConfig()
    """Settings of the yardsticks' training, and the number of tasks they play."""


def evaluate_one(trials: Trials, config: EvaluationConfig, console: Console) -> None:
    """Evaluates a run; writes its report, or its rollouts alone, on request."""
    path = evaluation_file(trials, config)
    file = recordings_file(path)
    wanted = config.report or config.replay or config.video
    recordings = Recordings(config.record) if wanted and can_show(trials.distribution) else None
    evaluation = evaluate(trials, config, console, recordings)
    if not wanted:
        return
    with or_what_is_safe(f"the evaluation is in {path}, and --stored reads it"):
        if recordings and not config.stored:
            write_recordings(file, recordings.kept)
        report(trials, config, evaluation, recordings=file)


def report(
    trials: Trials, config: EvaluationConfig, evaluation: Evaluation, *, recordings: Path
) -> None:
    """Writes the report on an evaluation, or its rollouts alone."""
    folder = trials.output / "report" / evaluation_file(trials, config).stem
    rollouts = None
    if recordings.exists() or config.replay or config.video:
        rollouts = write_rollouts(
            folder,
            with_scenes(trials.distribution, trials.tasks, read_recordings(recordings)),
            title=f"{evaluation.experiment}, seed {evaluation.seed}: rollouts",
            text=FIRST_AND_LAST,
            video=config.video, fine=config.fine, camera=config.camera,
        )  # fmt: skip
    if config.report:
        page = adaptation_report(evaluation, yardstick_sections(config, [evaluation], [trials]))
        print(f"Report: {write_report(folder, page, rollouts)}")


def yardstick_sections(
    config: EvaluationConfig, evaluations: Sequence[Evaluation], trials: Sequence[Trials]
) -> list[Section]:
    """The section on yardsticks that play the same tasks; empty if it was not requested."""
    if not config.yardstick:
        return []
    new = config.model_copy(
        update={"checkpoint": 0, "report": False, "replay": False, "video": False}
    )
    # The untrained agents come first: a checkpoint may be missing, and yardsticks take minutes.
    untrained = [measure(find_trials(t.folder, new), new, None) for t in trials]
    yardsticks = measure_yardsticks(
        trials[0].distribution, config.yardsticks, trials[0].output / "yardsticks", print
    )
    return [yardstick_section(evaluations, untrained, yardsticks)]


def evaluate_few_shot(
    folder: Path, experiment: FewShotExperiment, config: EvaluationConfig, console: Console
) -> None:
    """Evaluates a few-shot learner, or reads a stored evaluation; prints, stores and reports it."""
    checkpoint = find_checkpoint(folder, config)
    options = config.result_options(few_shot=True, exclude_defaults=True)
    output = output_folder(folder, experiment, config)
    path = stored_file(output, config.split, options, trained_for=int(checkpoint.name))
    if config.stored:
        evaluation = FewShotEvaluation.read(path)
        of = evaluation.experiment, evaluation.seed, evaluation.tasks, evaluation.split
        if of != (experiment.name, experiment.seed, int(checkpoint.name), config.split):
            raise UserError(f"{path} is of another run, checkpoint or split; leave --stored out")
        print_few_shot(evaluation, console)
    else:
        check_can_write(output)
        evaluation = measure_few_shot(experiment, checkpoint, config)
        try:
            print_few_shot(evaluation, console)
        finally:  # also where the output cannot be written
            with or_what_is_safe("the evaluation is printed above, but not stored"):
                evaluation.write(path)
        with or_without_picture():
            plot_few_shot(evaluation, path.with_suffix(".png"))
        print(f"Stored in {path} and {path.with_suffix('.png').name}")
    if config.report:
        with or_what_is_safe(f"the evaluation is in {path}, and --stored reads it"):
            page = write_report(output / "report" / path.stem, few_shot_report(evaluation))
        print(f"Report: {page}")


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    switches = [
        name for name, field in EvaluationConfig.model_fields.items() if field.annotation is bool
    ]
    positional, options = split_command_line(arguments, switches=("help", *switches))
    if options.pop("help", False):
        print(typed(__doc__ or ""))
        tyro.cli(EvaluationConfig, args=["--help"], prog=typed("python evaluate.py RUN"))
    config = validate(EvaluationConfig, override({}, options), source="evaluate.py")
    folders = [Path(name) for name in positional]
    if not folders or (len(folders) > 1 and not config.compare):
        wanted = typed("python evaluate.py runs/EXPERIMENT/SEED")
        raise UserError(f"name one run: {wanted}, or several with --compare")
    experiments = [load_run(folder, trusted=config.trust) for folder in folders]
    few_shot = [each for each in experiments if isinstance(each, FewShotExperiment)]
    check_options(config, few_shot=bool(few_shot))
    console = plain_console(None if sys.stdout.isatty() else 120)
    if few_shot:
        evaluate_few_shot(folders[0], few_shot[0], config, console)
        return
    if not config.compare:
        config = as_published(folders[0], config)
    if config.live:
        watch(folders[0], config)
        return
    trials = [find_trials(folder, config) for folder in folders]
    check_can_store(trials, config)
    if config.replay or config.video:
        check_shows(trials[0].distribution, trials[0].tasks, camera=config.camera)
    if config.compare:
        compare(trials, config, console, partial(yardstick_sections, config))
    else:
        evaluate_one(trials[0], config, console)


if __name__ == "__main__":
    with one_line_errors("evaluate.py"), ranks.joined("evaluate.py"):
        if ranks.is_first():
            try:
                main(sys.argv[1:])
            except SystemExit:  # all is said, as after --help
                ranks.from_first(None)
                raise
            ranks.from_first(None)
        else:
            play_along()
