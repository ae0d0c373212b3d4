"""What a model's predictions on test patients are worth: scores, intervals, subgroups, tests.

Everything starts from :class:`~fedmed.evaluation.predictions.Predictions`, a run's or anyone's. The
patient is the unit throughout: patients are resampled, and a patient's images stay together.
"""
