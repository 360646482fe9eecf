"""Whether two networks differ: intervals, p-values, and the sentence about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.studies import paired_statistics
from service.studies.paired_statistics import compare_pairs, describe, pairs_needed

np = pytest.importorskip("numpy")

ERRORS = st.lists(st.floats(0, 100), min_size=2, max_size=8)


def test_equal_networks_raise_at_most_one_false_alarm_in_twenty() -> None:
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(300):
        noise = generator.normal(0.0, 0.3, size=(2, 8))
        shared = generator.normal(8.0, 0.2, size=8)
        alarms += compare_pairs(*(shared + noise).tolist()).is_significant
    # 15 are expected; at most 5 % plus two standard deviations of the simulation.
    assert alarms <= 300 * 0.05 + 2 * (300 * 0.05 * 0.95) ** 0.5


def test_the_p_value_is_exact_for_few_pairs() -> None:
    found = compare_pairs([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0] * 6)
    assert found.p == pytest.approx(2 / 2**6)
    assert found.is_significant
    assert not compare_pairs([1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5).is_significant


def test_the_interval_contains_the_mean_and_pairs_remove_what_seeds_share() -> None:
    shared = [7.0, 9.0, 8.0, 12.0, 6.5, 10.0, 8.4]
    a = [value - 0.5 - 0.01 * number for number, value in enumerate(shared)]
    found = compare_pairs(a, shared)
    assert found.mean == pytest.approx(-0.53)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert -0.56 < found.ci_low < found.mean < found.ci_high < -0.5


@given(ERRORS, st.data())
def test_swapping_the_networks_changes_the_sign_only(a: list[float], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.floats(0, 100), min_size=len(a), max_size=len(a)))
    forward, backward = compare_pairs(a, b), compare_pairs(b, a)
    assert forward.mean == -backward.mean
    assert forward.p == pytest.approx(backward.p)


def test_one_pair_and_no_pair() -> None:
    found = compare_pairs([5.0], [6.0])
    assert (found.n, found.mean, found.std, found.p) == (1, -1.0, None, None)
    with pytest.raises(ValueError, match="needs pairs"):
        compare_pairs([], [])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([5.0], [6.0], "smaller by 1.00 points with one seed: no statement about other seeds"),
        ([5.0, 5.0], [5.0, 5.0], "equal in every pair (n = 2)"),
        (
            [5.1, 5.2, 5.0, 5.3, 5.1, 5.2],
            [5.6, 5.6, 5.5, 5.8, 5.5, 5.7],
            "smaller by 0.47 ± 0.04 points, p = 0.031 (n = 6)",
        ),
        (
            [8.0, 8.3, 7.9],
            [8.1, 8.0, 8.2],
            (
                "within noise: smaller by 0.03 points, p = 1 (n = 3); 72 more seeds would show a "
                "difference of 0.1 points"
            ),
        ),
    ],
)
def test_a_difference_in_words(a: list[float], b: list[float], expected: str) -> None:
    assert describe(compare_pairs(a, b)) == expected


def test_the_number_of_pairs_that_a_message_names_finds_the_difference_in_four_of_five() -> None:
    pairs = pairs_needed(0.3, std=0.3)
    generator = np.random.default_rng(3)
    found = sum(
        compare_pairs(generator.normal(0.3, 0.3, size=pairs).tolist(), [0.0] * pairs).is_significant
        for _ in range(150)
    )
    assert 0.7 < found / 150 < 0.95
    assert pairs >= paired_statistics.MIN_PAIRS
