"""Image classification: the verbs of the command line as functions."""

from vitune.tasks.evaluate import EvaluateResult, evaluate
from vitune.tasks.export import ExportResult, export, export_tuned
from vitune.tasks.merge import MergeResult, merge
from vitune.tasks.modules import ModulesResult, pretrain_modules, resume_modules
from vitune.tasks.predict import Guess, Prediction, predict
from vitune.tasks.request import DataSettings, ModelSettings, TrainRequest
from vitune.tasks.train import RunResult, resume, train

__all__ = [
    "DataSettings",
    "EvaluateResult",
    "ExportResult",
    "Guess",
    "MergeResult",
    "ModelSettings",
    "ModulesResult",
    "Prediction",
    "RunResult",
]
__all__ += [
    "TrainRequest",
    "evaluate",
    "export",
    "export_tuned",
    "merge",
    "predict",
    "pretrain_modules",
    "resume",
    "resume_modules",
    "train",
]
