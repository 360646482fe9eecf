"""Pages of jobs, comparisons and studies as files: their data and the dashboard in one."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from api import problems, static_export
from api.dependencies import authorize
from api.queries import FilterText
from api.shared_reads import SharedReads
from service.errors import Conflict, NotFound
from service.jobs.metric_axes import MetricAxis
from service.states import MembersSee, Role, TokenScope
from service.storage.visibility import Shared
from service.text import count_of

router = APIRouter(prefix="/v1", tags=["exports"], dependencies=[Depends(authorize)])

_PARTS = ("", "/attempts", "/events", "/checkpoints", "/lineage", "/envelope", "/analyses")
# As many as the page shows.
_MAX_COMPARED = 100
_FILE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {}}}}


@router.get(
    "/jobs/{job_id}/export",
    response_class=Response,
    responses=_FILE | problems.responses(NotFound, Conflict),
)
async def export_job(job_id: str, request: Request) -> Response:
    """The page of the job as one HTML file with curves, spec, results and checkpoints."""
    base = f"/v1/jobs/{job_id}"
    reads = {f"{base}{part}": f"{base}{part}" for part in _PARTS}
    bodies = await _read_all(request, reads | _list_metrics(f"job={job_id}"))
    if base not in bodies:
        raise NotFound(f"no job {job_id!r}")
    title = bodies[base]["name"]
    return _respond(f"/jobs/{job_id}", job_id, title, bodies, {}, Shared(job_ids=(job_id,)))


@router.get(
    "/export",
    response_class=Response,
    responses=_FILE | problems.responses(NotFound, Conflict),
)
async def export_comparison(
    request: Request,
    job: Annotated[
        list[FilterText], Query(min_length=1, max_length=_MAX_COMPARED, description="of jobs")
    ],
) -> Response:
    """The page that compares these jobs as one HTML file with their curves and results."""
    job_ids = tuple(dict.fromkeys(job))
    chosen = urlencode({"job": job_ids}, doseq=True)
    reads = {f"/v1/groups?by={by}": f"/v1/groups?{chosen}&by={by}" for by in ("-seed", "id")}
    reads["/v1/jobs"] = f"/v1/jobs?{chosen}&limit={_MAX_COMPARED}"
    bodies = await _read_all(request, reads | _list_metrics(chosen))
    found = {row["id"] for row in bodies["/v1/jobs"]["jobs"]}
    for job_id in job_ids:
        if job_id not in found:
            raise NotFound(f"no job {job_id!r}")
    title = f"Comparison of {count_of(len(job_ids), 'job')}"
    return _respond(f"/compare?{chosen}", "comparison", title, bodies, {}, Shared(job_ids=job_ids))


@router.get(
    "/studies/{study_id}/export",
    response_class=Response,
    responses=_FILE | problems.responses(NotFound, Conflict),
)
async def export_study(study_id: str, request: Request) -> Response:
    """The page of the study as one HTML file with its report and its figure."""
    base = f"/v1/studies/{study_id}"
    bodies = await _read_all(request, {base: base})
    if base not in bodies:
        raise NotFound(f"no study {study_id!r}")
    shared: SharedReads = request.app.state.shared_reads
    _, figure = await shared.request(f"{base}/report?format=svg", request.headers.raw)
    title, path = bodies[base]["title"], f"/studies/{study_id}"
    pictures = {f"{base}/report": figure}
    return _respond(path, study_id, title, bodies, pictures, Shared(study_id=study_id))


def _list_metrics(chosen: str) -> dict[str, str]:
    """`chosen`: jobs, as in a query."""
    return {
        f"/v1/metrics?x={axis}": f"/v1/metrics?{chosen}&x={axis}&buckets=500" for axis in MetricAxis
    }


async def _read_all(request: Request, reads: Mapping[str, str]) -> dict[str, Any]:
    """The bodies of what the caller may read, by the keys of `reads`."""
    shared: SharedReads = request.app.state.shared_reads
    found = {}
    for key, url in reads.items():
        response = await shared.read_alone(url, request.headers.raw)
        if response.status == HTTPStatus.OK:
            found[key] = json.loads(response.body)
    return found


def _respond(
    path: str,
    name: str,
    title: str,
    bodies: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    shared: Shared,
) -> Response:
    """`path`: of the page; `name`: of the file."""
    session = {
        "user": "resnetd",
        "role": Role.VIEWER,
        "group": None,
        "scope": TokenScope.SHARED,
        "tag": None,
        "expires_at": None,
        "shared": {"jobs": list(shared.job_ids), "study": shared.study_id},
        "members_see": MembersSee.ALL,
    }
    content = static_export.make_file(
        path, title=title, session=session, responses=bodies, pictures=pictures
    )
    return Response(
        content,
        media_type="text/html",
        # Never shown by a browser as a page of the service, whose cookie it could use.
        headers={
            "Content-Disposition": f'attachment; filename="{name}.html"',
            "Content-Security-Policy": "sandbox",
            "X-Content-Type-Options": "nosniff",
        },
    )
