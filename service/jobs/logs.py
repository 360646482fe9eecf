"""Log lines of a job's attempts, numbered per job from 1."""

from collections.abc import Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service.specs.protocol import LogLine
from service.storage.tables import AttemptRow, JobRow, LogRow


def append_lines(
    session: Session, job: JobRow, attempt: AttemptRow, lines: Sequence[LogLine]
) -> None:
    """The caller has locked the job, whose counter numbers its lines."""
    if not lines:
        return
    rows = [
        {
            "job_id": job.id,
            "number": number,
            "attempt": attempt.number,
            "at": line.at,
            "level": line.level,
            "message": line.message,
        }
        for number, line in enumerate(lines, start=job.log_line_count + 1)
    ]
    job.log_line_count += len(lines)
    session.execute(insert(LogRow), rows)


def list_lines_after(session: Session, job_id: str, number: int, *, limit: int) -> list[LogRow]:
    """Log lines that follow `number`, oldest first."""
    statement = (
        select(LogRow)
        .where(LogRow.job_id == job_id, LogRow.number > number)
        .order_by(LogRow.number)
        .limit(limit)
    )
    return list(session.scalars(statement))
