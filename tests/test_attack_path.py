"""autograder/attack_path.py on attacks that run here, in NumPy."""

import numpy as np
import pytest
from autograder.attack_path import Case, Run
from autograder.compare import CheckFailed
from autograder.parts.pgd import any_step, wrong_count_or_size
from autograder.parts.pgd_calls import least_step, require_all_steps


def pgd(case: Case, start: np.ndarray, steps: int, direction: float = -1.0) -> list[np.ndarray]:
    """All iterates, with the start and the result."""
    points = [start.astype(np.float32)]
    for _ in range(steps):
        gradient = case.net.gradient(points[-1], case.net.logits(points[-1]).argmin(1))
        moved = points[-1] + direction * case.step * np.sign(gradient)
        points.append(np.clip(moved, case.x - case.epsilon, case.x + case.epsilon).astype(np.float32))
    return points


def run_of(case: Case, points: list[np.ndarray], queries: list[np.ndarray] | None = None) -> Run:
    queries = points[:-1] if queries is None else queries
    facts = {"passes": [[len(one), False, True, 1] for one in queries]}
    return Run(case, slice(0, len(case.x)), facts, points[-1], np.concatenate(queries))


@pytest.fixture
def case() -> Case:
    return Case(np.random.default_rng(4), steps=6, curvature=0.05)


def orders(points: list[np.ndarray], clean: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Ways to show the same iterates to a network."""
    shown = points[:-1]
    return {"the whole batch": shown, "a clean pass at the end": [*shown, clean],
            "twice": [one for p in shown for one in (p, p)],
            "the result as well": points, "image by image": [p[n:n + 1] for n in (2, 0, 3, 1) for p in shown],
            "halves": [p[part] for part in (slice(2, 4), slice(0, 2)) for p in shown]}


@pytest.mark.parametrize("how", ["the whole batch", "a clean pass at the end", "twice", "the result as well",
                                 "image by image", "halves"])
@pytest.mark.parametrize("random_start", [False, True])
def test_a_right_attack_is_followed_however_the_network_is_called(case, how, random_start):
    noise = np.random.default_rng(0).uniform(-case.epsilon, case.epsilon, case.x.shape)
    points = pgd(case, case.x + noise * random_start, case.steps)
    require_all_steps(run_of(case, points, orders(points, case.x)[how]))


def test_steps_against_the_wall_count_without_a_forward_pass_each():
    case = Case.two_labels(np.random.default_rng(0), steps=9, step=0.05, epsilon=0.1)
    points = pgd(case, case.x, 9)
    assert np.array_equal(points[2], points[-1])
    require_all_steps(run_of(case, points))
    require_all_steps(run_of(case, points, points[:3]))


@pytest.mark.parametrize("steps", [4, 5, 7])
def test_one_step_more_or_less_is_found(case, steps):
    with pytest.raises(CheckFailed, match="is wrong for image"):
        require_all_steps(run_of(case, pgd(case, case.x, steps)))


def test_the_first_wrong_step_is_named(case):
    points = pgd(case, case.x, 3)
    points += pgd(case, points[-1], 3, direction=1.0)[1:]
    run = run_of(case, points)
    assert [run.fit(n, least_step(run, n, "anew")) for n in range(4)] == [3] * 4
    assert run.fit(0, any_step(run, 0, 1)) < 6


def test_a_climbing_attack_takes_steps_of_its_own(case):
    run = run_of(case, pgd(case, case.x, case.steps, direction=1.0))
    assert run.fit(0, any_step(run, 0, 1)) == case.steps
    with pytest.raises(CheckFailed, match="step 1 of 6"):
        require_all_steps(run)


def test_counts_in_sentences_are_true():
    case = Case.two_labels(np.random.default_rng(0), steps=5)
    sentence = str(wrong_count_or_size(run_of(case, pgd(case, case.x, 3)), 0))
    assert "moved in 3 steps of 0.02, expected num_steps=5" in sentence
