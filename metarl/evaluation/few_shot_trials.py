"""Evaluation of a checkpoint's few-shot learner on the tasks of a split."""

from __future__ import annotations

from pathlib import Path

from metarl.evaluation.few_shot import SHOTS, SHOTS_OF_FUNCTIONS, judge
from metarl.evaluation.few_shot_record import FewShotEvaluation
from metarl.evaluation.options import EvaluationOptions
from metarl.evaluation.trials import note_changes
from metarl.training.experiment import (
    FewShotExperiment,
    build_learner,
    file_hash,
    short_kind,
)
from metarl.training.provenance import environment
from metarl.training.run import load_agent

FEW_SHOT_TASKS = 600


def measure_few_shot(
    experiment: FewShotExperiment, checkpoint: Path, config: EvaluationOptions
) -> FewShotEvaluation:
    """Evaluates the learner of a checkpoint on the tasks of a split."""
    experiment = experiment.model_copy(update={"device": config.device})
    distribution = experiment.env.as_judged().build()
    shape = distribution.shape
    learner = build_learner(experiment, shape)
    note_changes(
        load_agent(learner, checkpoint),
        distribution.train.content_hash,
        file_hash(experiment.agent.kind),
    )
    sampler = distribution.test if config.split == "test" else distribution.train
    usual = SHOTS if shape.classification else SHOTS_OF_FUNCTIONS
    judged = judge(
        learner,
        sampler,
        shape,
        shots=config.shots or (*usual, distribution.shots),
        num_tasks=config.num_tasks or FEW_SHOT_TASKS,
        seed=config.seed,
    )
    return FewShotEvaluation(
        experiment=experiment.name,
        agent=short_kind(experiment.agent.kind),
        seed=experiment.seed,
        tasks=int(checkpoint.name),
        distribution=distribution.name,
        split=config.split,
        split_hash=sampler.content_hash,
        num_ways=shape.num_outputs if shape.classification else None,
        batch_norm=getattr(getattr(experiment.agent, "encoder", None), "batch_norm", "none"),
        options=config.result_options(few_shot=True),
        environment=environment(),
        **judged._asdict(),
    )
