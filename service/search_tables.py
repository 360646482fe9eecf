"""The rows of searches and their trials."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.states import SearchEnd, SearchState
from service.tables import Base


class SearchRow(Base):
    """A hyper-parameter search, and its driver: the Ray job in which Ray Tune decides.

    `driver` counts its drivers; there is none where `driver_gone_at` is set. `driver_failures`:
    how many in a row have died without having done anything. `active_seconds` have passed in
    `running` before `active_since`.
    """

    __tablename__ = "searches"
    __table_args__ = (Index("ix_searches_state", "state"),)

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, Any]]
    state: Mapped[SearchState]
    user: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    active_seconds: Mapped[float] = mapped_column(default=0.0)
    active_since: Mapped[datetime | None]
    end: Mapped[SearchEnd | None]
    message: Mapped[str | None] = mapped_column(Text)
    events: Mapped[int] = mapped_column(default=0)
    driver: Mapped[int] = mapped_column(default=0)
    driver_token_sha256: Mapped[str] = mapped_column(String(64), default="")
    driver_failures: Mapped[int] = mapped_column(default=0)
    driver_not_before: Mapped[datetime | None]
    driver_began_at: Mapped[datetime | None]
    driver_submitted_at: Mapped[datetime | None]
    driver_heard_at: Mapped[datetime | None]
    driver_dismissed_at: Mapped[datetime | None]
    driver_gone_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    spec_sha256: Mapped[str] = mapped_column(String(64))


class TrialRow(Base):
    """A job of a search, numbered per search from 1.

    `follower`: the driver and the trial of Ray Tune's that follow it. `why`: why the search has
    stopped it early. `is_paused`: with the search, and not by itself.
    """

    __tablename__ = "trials"
    __table_args__ = (Index("ix_trials_search_id_follower", "search_id", "follower"),)

    search_id: Mapped[str] = mapped_column(
        ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    params: Mapped[dict[str, Any]]
    follower: Mapped[str] = mapped_column(String(80))
    why: Mapped[str | None] = mapped_column(Text)
    is_paused: Mapped[bool] = mapped_column(default=False)


class SearchEventRow(Base):
    """Something that happened to a search, numbered per search from 1."""

    __tablename__ = "search_events"

    search_id: Mapped[str] = mapped_column(
        ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
