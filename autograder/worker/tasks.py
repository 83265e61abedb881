"""The tasks of a worker: each runs student code once and returns facts (JSON) and arrays, without a verdict.

A task takes arrays, then settings by keyword. Arrays become tensors of the same dtype. Those of 3.1 are in
convolution.py, of 3.2 in transformers.py and vit.py, of 3.3 in attacks.py and training.py, and those for any module in
probes.py.
"""

from autograder.worker import attacks, common, convolution, probes, training, transformers, vit
from autograder.worker.common import seed_everything


def load(_, seed: int) -> tuple[dict, dict]:
    """Import student_code."""
    seed_everything(seed)
    import student_code
    common.student = student_code
    return {}, {}


TASKS = {task.__name__: task for task in (load, *convolution.TASKS, *probes.TASKS, *transformers.TASKS, *vit.TASKS,
                                          *attacks.TASKS, *training.TASKS)}
