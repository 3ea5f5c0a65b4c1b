"""Evaluation of one run, comparison of several, and the live replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from metarl.errors import UserError
from metarl.evaluation.options import EvaluationOptions
from metarl.evaluation.record import (
    Evaluation,
    said_of_published,
)
from metarl.evaluation.setting import check_alike
from metarl.evaluation.trials import (
    Trials,
    check_is_of,
    evaluation_file,
    find_checkpoint,
    find_trials,
    measure,
)
from metarl.report.adaptation import plot_adaptation
from metarl.report.blocks import Section
from metarl.report.compared_rollouts import Beside
from metarl.report.comparison import comparison_report
from metarl.report.output import (
    comparison_folder,
    or_what_is_safe,
    or_without_picture,
    recordings_file,
    with_scenes,
    write_rollouts,
)
from metarl.report.page import write_report
from metarl.report.terminal import print_evaluation
from metarl.rollout.recording import Recorder, Recordings
from metarl.training.run import is_published, load_agent
from metarl.visual.replay import live_server, trial_after_trial
from metarl.visual.video import NOTHING_TO_SHOW


def evaluate(
    trials: Trials, config: EvaluationOptions, console: Console, recordings: Recordings | None
) -> Evaluation:
    """Plays the trials or reads their stored evaluation; prints and stores it.

    A published evaluation is compared and never replaced.
    """
    path = evaluation_file(trials, config)
    if config.stored:
        evaluation = Evaluation.read(path)
        check_is_of(evaluation, trials, path)
        print_evaluation(evaluation, console)
        return evaluation
    evaluation = measure(trials, config, recordings)
    published = is_published(trials.checkpoint)
    stores = not published or config.output is not None
    try:
        print_evaluation(evaluation, console)
    finally:  # even if stdout cannot be written
        if stores:
            with or_what_is_safe("of this evaluation there is what was printed"):
                evaluation.write(path)
                recordings_file(path).unlink(missing_ok=True)  # of the replaced evaluation
    if published:
        print(said_of_published(evaluation, trials.folder / path.relative_to(trials.output)))
    if stores:
        with or_without_picture():
            plot_adaptation(evaluation, path.with_suffix(".png"))
        print(f"Stored in {path} and {path.with_suffix('.png').name}")
    return evaluation


def compare(
    trials: Sequence[Trials],
    config: EvaluationOptions,
    console: Console,
    more: Callable[[Sequence[Evaluation], Sequence[Trials]], list[Section]],
) -> None:
    """Evaluates several runs and compares them on one page, with rollouts if requested.

    Args:
        more: makes further sections of the page.
    """
    check_alike([each.setting for each in trials])
    if not config.stored:
        for each in trials:
            each.check()
    files = {each.name: evaluation_file(each, config) for each in trials}
    above = Path(config.output) if config.output else trials[0].folder.parent.parent
    folder = comparison_folder(above, list(files), files[trials[0].name].stem)
    beside = Beside(trials) if config.replay or config.video else None
    evaluations = [
        evaluate(each, config, console, beside.recordings.get(each.name) if beside else None)
        for each in trials
    ]
    rollouts = None
    with or_what_is_safe("the evaluations are stored, and --stored reads them"):
        if beside:
            stored = {
                name: folder / f"{name}_{recordings_file(f).name}" for name, f in files.items()
            }
            if not config.stored:
                beside.store(stored, evaluations, limit=config.record)
            shown = beside.shown(stored)
            rollouts = write_rollouts(
                folder,
                with_scenes(trials[0].distribution, trials[0].tasks, shown),
                title=f"{' and '.join(beside.labels.values())}: rollouts",
                text=beside.description(shown),
                video=config.video, fine=config.fine, camera=config.camera,
            )  # fmt: skip
        page = comparison_report(evaluations, more(evaluations, trials))
        print(f"Report: {write_report(folder, page, rollouts)}")


def watch(folder: Path, config: EvaluationOptions) -> None:
    """Serves the replay while the agent plays task after task.

    Each trial loads the newest checkpoint, so that training can be watched.
    """
    trials = find_trials(folder, config)
    env = trials.distribution.make_env(trials.shape.slots_per_task)
    if not isinstance(env, Recorder):
        raise UserError(NOTHING_TO_SHOW)
    agent = trials.build_agent(env)
    next_trial = trial_after_trial(
        agent, env, trials.tasks, shape=trials.shape, seed=config.seed, greedy=config.greedy,
        prepare=lambda: load_agent(agent, find_checkpoint(folder, config)),
    )  # fmt: skip
    title = f"{trials.experiment}, seed {trials.seed}: live"
    with live_server(next_trial, title=title, port=config.port) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        print(f"Watch it on {address} until you press Ctrl-C", flush=True)
        server.serve()
