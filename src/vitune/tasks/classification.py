"""Image classification: the verbs of the command line as functions."""

from vitune.tasks.evaluate import EvaluateResult, evaluate
from vitune.tasks.merge import MergeResult, merge
from vitune.tasks.predict import Guess, Prediction, predict
from vitune.tasks.request import DataSettings, ModelSettings, TrainRequest
from vitune.tasks.train import RunResult, resume, train

__all__ = [
    "DataSettings",
    "EvaluateResult",
    "Guess",
    "MergeResult",
    "ModelSettings",
    "Prediction",
    "RunResult",
]
__all__ += ["TrainRequest", "evaluate", "merge", "predict", "resume", "train"]
