"""Transitions of the state machines, checked one by one and along random walks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.states import (
    FINAL_STATES,
    NEXT_SEARCH_STATES,
    NEXT_STATES,
    Blame,
    JobState,
    Reason,
    SearchState,
    StopReason,
)


def test_exactly_succeeded_failed_and_cancelled_are_final() -> None:
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == FINAL_STATES


def test_no_state_is_its_own_successor() -> None:
    assert not [state for state in JobState if state in NEXT_STATES[state]]


def test_a_final_state_can_be_reached_from_every_state() -> None:
    reaches_end = set(FINAL_STATES)
    for _ in JobState:
        reaches_end |= {state for state in JobState if NEXT_STATES[state] & reaches_end}
    assert reaches_end == set(JobState)


@given(choices=st.lists(st.integers(0, 5), max_size=30))
def test_a_walk_runs_only_after_it_has_started(choices: list[int]) -> None:
    walked = [JobState.QUEUED]
    for choice in choices:
        onward = sorted(NEXT_STATES[walked[-1]])
        if not onward:
            break
        walked.append(onward[choice % len(onward)])
    for before, after in itertools.pairwise(walked):
        assert after is not JobState.RUNNING or before is JobState.STARTING
        assert after is not JobState.STARTING or before is JobState.QUEUED
        assert after is not JobState.SUCCEEDED or before is not JobState.QUEUED


@pytest.mark.parametrize("reason", [Reason.COMPLETED, Reason.BUDGET_REACHED, Reason.CANCELLED])
def test_a_completed_or_cancelled_attempt_blames_nothing(reason: Reason) -> None:
    assert reason.blame is None
    assert not reason.is_retryable


def test_failures_not_caused_by_the_user_are_retried() -> None:
    not_the_user = {Blame.INFRASTRUCTURE, Blame.PLATFORM}
    assert all(reason.is_retryable for reason in Reason if reason.blame in not_the_user)


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.DATASET_MISSING, Reason.DIVERGED])
def test_a_failure_that_would_repeat_is_not_retried(reason: Reason) -> None:
    assert reason.blame is Blame.USER
    assert not reason.is_retryable


def test_a_search_can_end_from_every_state_and_only_a_succeeded_one_is_queued_again() -> None:
    reaches_end = {state for state in SearchState if state.is_final}
    for _ in SearchState:
        reaches_end |= {state for state in SearchState if NEXT_SEARCH_STATES[state] & reaches_end}
    assert reaches_end == set(SearchState)
    assert NEXT_SEARCH_STATES[SearchState.SUCCEEDED] == {SearchState.QUEUED}
    assert not NEXT_SEARCH_STATES[SearchState.FAILED]
    assert not NEXT_SEARCH_STATES[SearchState.CANCELLED]


def test_only_the_time_limit_among_stop_reasons_has_a_blame() -> None:
    assert [stop for stop in StopReason if stop.reason.blame is not None] == [StopReason.TIME_LIMIT]
