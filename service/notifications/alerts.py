"""Alerts: what a person wants to be notified of, by which channel, and what they have reported.

Changes of a job's state are reported in their transaction. Conditions that time decides are
checked by the dispatcher (service.scheduling.alert_conditions) and reported when they begin.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import NotFound, invalid_parameter
from service.notifications import deliveries, messages, url_guard
from service.notifications.messages import describe_job
from service.notifications.url_guard import Network
from service.specs.alert_spec import AlertSpec
from service.states import AlertChannel, AlertCondition, JobState, Reason, Role
from service.storage.tables import (
    AlertRow,
    DeliveryRow,
    FiringAlertRow,
    JobRow,
    PersonRow,
    TagRow,
)

# As in HTML's inputs: no quotes, comments or spaces.
_ADDRESS = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@([A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}", re.ASCII
)


def add_alert(session: Session, spec: AlertSpec, *, user: str, now: datetime) -> AlertRow:
    """The caller checks the target."""
    is_signed = spec.channel is AlertChannel.WEBHOOK
    row = AlertRow(
        id=ids.new_id(now),
        user=user,
        secret=messages.make_secret() if is_signed else "",
        created_at=now,
        **spec.model_dump(),
    )
    session.add(row)
    session.flush()
    return row


def list_alerts(session: Session) -> Sequence[AlertRow]:
    return session.scalars(select(AlertRow).order_by(AlertRow.id)).all()


def check_target(
    spec: AlertSpec,
    *,
    allowed: Sequence[Network],
    sends_mail: bool,
    mail_domains: Sequence[str],
) -> None:
    """UrlNotAllowed or InvalidInput where the service may not send to the target.

    `mail_domains`: to which e-mails may go; empty: all.
    """
    if spec.channel is not AlertChannel.EMAIL:
        url_guard.parse_url(spec.target, allowed=allowed)
        return
    if not sends_mail:
        raise invalid_parameter("/channel", "this service has no SMTP server: RESNETD_SMTP_URL")
    if _ADDRESS.fullmatch(spec.target) is None:
        raise invalid_parameter("/target", "must be an e-mail address such as ann@example.org")
    domain = spec.target.rpartition("@")[2].lower()
    if mail_domains and domain not in {allowed.lower() for allowed in mail_domains}:
        raise invalid_parameter("/target", f"must end with @{' or @'.join(mail_domains)}")


def find_alert(session: Session, alert_id: str) -> AlertRow:
    row = session.get(AlertRow, alert_id) if ids.is_id(alert_id) else None
    if row is None:
        raise NotFound(f"no alert {alert_id!r}")
    return row


def delete_alert(session: Session, alert_id: str) -> None:
    """With its deliveries."""
    row = find_alert(session, alert_id)
    session.execute(delete(AlertRow).where(AlertRow.id == row.id))


@dataclass(frozen=True)
class Notice:
    """What an alert says. `path`: of the dashboard's page about it; `data`: for programs."""

    title: str
    text: str
    path: str
    data: dict[str, Any]


def enqueue_test(session: Session, alert_id: str, *, now: datetime) -> DeliveryRow:
    notice = Notice("Test of an alert", "This channel works.", "/settings", {})
    return _enqueue(session, find_alert(session, alert_id), "test", notice, now=now)


def enqueue_job_change(session: Session, job: JobRow, *, now: datetime) -> None:
    """Reports the job's new state: at most once for each alert."""
    conditions = _find_conditions(job)
    if not conditions:
        return
    tags: set[str] | None = None
    for alert in _list_concerned(session, job.user):
        condition = next((name for name in conditions if name in alert.conditions), None)
        if condition is None:
            continue
        if alert.tags:
            if tags is None:
                tags = set(session.scalars(select(TagRow.tag).where(TagRow.job_id == job.id)))
            if tags.isdisjoint(alert.tags):
                continue
        _enqueue(session, alert, condition, _make_notice(job), now=now)


def _list_concerned(session: Session, user: str) -> Sequence[AlertRow]:
    """The person's alerts, and those of admins about all jobs."""
    admins = select(PersonRow.name).where(PersonRow.role == Role.ADMIN)
    return session.scalars(
        select(AlertRow)
        .where(or_(AlertRow.user == user, and_(AlertRow.all_jobs, AlertRow.user.in_(admins))))
        .order_by(AlertRow.id)
    ).all()


@dataclass(frozen=True)
class Firing:
    """A condition that holds: of one alert, about one subject (a job, a quota, the queue)."""

    alert_id: str
    condition: AlertCondition
    subject: str


def read_firing(session: Session) -> set[Firing]:
    """What the alerts have reported and what has not ended since."""
    rows = session.scalars(select(FiringAlertRow))
    return {Firing(row.alert_id, row.condition, row.subject) for row in rows}


def begin(session: Session, firing: Firing, notice: Notice, *, now: datetime) -> None:
    """Reports a condition, and remembers that until it ends."""
    alert = session.get(AlertRow, firing.alert_id)
    if alert is None:  # deleted since
        return
    session.add(
        FiringAlertRow(
            alert_id=alert.id, condition=firing.condition, subject=firing.subject, since=now
        )
    )
    _enqueue(session, alert, firing.condition, notice, now=now)


def end(session: Session, ended: Iterable[Firing]) -> None:
    for firing in ended:
        session.execute(
            delete(FiringAlertRow).where(
                FiringAlertRow.alert_id == firing.alert_id,
                FiringAlertRow.condition == firing.condition,
                FiringAlertRow.subject == firing.subject,
            )
        )


def _find_conditions(job: JobRow) -> list[AlertCondition]:
    """The most specific first."""
    if job.state is JobState.SUCCEEDED:
        return [AlertCondition.SUCCEEDED]
    if job.state is JobState.FAILED:
        diverged = [AlertCondition.DIVERGED] if job.reason is Reason.DIVERGED else []
        return [*diverged, AlertCondition.FAILED]
    # A hold of a person has no reason.
    is_held = job.state is JobState.HELD and job.reason is not None
    return [AlertCondition.HELD] if is_held else []


def _make_notice(job: JobRow) -> Notice:
    if job.state is JobState.SUCCEEDED:
        errors = {name: (job.result or {}).get(f"{name}_error") for name in ("test", "train")}
        text = ", ".join(
            f"{name} error {value:.2f} %" for name, value in errors.items() if value is not None
        )
        title = f"{job.name} succeeded"
    elif job.state is JobState.FAILED:
        title, text = f"{job.name} failed: {job.reason}", job.message or ""
    else:
        title, text = f"{job.name} is held: {job.reason}", job.message or ""
    return Notice(title, text, f"/jobs/{job.id}", describe_job(job))


def _enqueue(
    session: Session, alert: AlertRow, condition: str, notice: Notice, *, now: datetime
) -> DeliveryRow:
    payload = {
        "type": f"alert.{condition}",
        "timestamp": now.isoformat(),
        "data": {
            "title": notice.title,
            "text": notice.text,
            "path": notice.path,
            **notice.data,
        },
    }
    return deliveries.enqueue(session, alert, payload, now=now)
