"""Which people and tokens may call which route: one table for all routes of people.

Attempts, runners and drivers have tokens of their own, each for its own routes. A route that is
missing here is refused, and a test names it.
"""

from service.access.policy import Rule, Subject
from service.states import Role, TokenScope

# What the parameter of a path names; of a query: the person whose tokens they are.
SUBJECTS = {
    "job_id": Subject.JOB,
    "search_id": Subject.SEARCH,
    "study_id": Subject.STUDY,
    "comparison_id": Subject.STUDY,
    "model_id": Subject.MODEL,
    "webhook_id": Subject.WEBHOOK,
    "alert_id": Subject.ALERT,
    "token_id": Subject.TOKEN,
    "share_id": Subject.SHARE,
}
OWNER_PARAMETER = "user"


def _read(subject: Subject | None = None, *, is_tagged: bool = False) -> Rule:
    """Of what the caller sees."""
    return Rule(Role.VIEWER, TokenScope.READ, subject, is_tagged=is_tagged)


def _read_shared(subject: Subject | None = None, *, is_tagged: bool = False) -> Rule:
    """Of what the caller sees, also by a link that shares it."""
    return Rule(Role.VIEWER, TokenScope.SHARED, subject, is_tagged=is_tagged)


def _submit(subject: Subject | None = None, *, is_tagged: bool = False) -> Rule:
    """`subject`: what is submitted anew, which the caller need not own."""
    return Rule(Role.MEMBER, TokenScope.SUBMIT, subject, is_tagged=is_tagged)


def _change(subject: Subject, *, role: Role = Role.MEMBER, is_tagged: bool = False) -> Rule:
    """What the caller owns."""
    return Rule(role, TokenScope.FULL, subject, is_owned=True, is_tagged=is_tagged)


_READ, _READ_TAGGED = _read(), _read(is_tagged=True)
_READ_JOB = _read(Subject.JOB, is_tagged=True)
_READ_SHARED = _read_shared(is_tagged=True)
_READ_SHARED_JOB = _read_shared(Subject.JOB, is_tagged=True)
_READ_SHARED_STUDY = _read_shared(Subject.STUDY)
_READ_SEARCH = _read(Subject.SEARCH)
_SUBMIT, _SUBMIT_TAGGED = _submit(), _submit(is_tagged=True)
_CHANGE_JOB = _change(Subject.JOB, is_tagged=True)
_CHANGE_SEARCH = _change(Subject.SEARCH)
_READ_MODEL, _CHANGE_MODEL = _read(Subject.MODEL), _change(Subject.MODEL)
_READ_WEBHOOK = _read(Subject.WEBHOOK)
_CHANGE_WEBHOOK = _change(Subject.WEBHOOK)
_CHANGE_ALERT = _change(Subject.ALERT)
# People without a job of their own have tokens, too.
_OWN_TOKENS = _change(Subject.PERSON, role=Role.VIEWER)
_CHANGE_TOKEN = _change(Subject.TOKEN, role=Role.VIEWER)
_ADMINISTER = Rule(Role.ADMIN, TokenScope.FULL)

RULES: dict[str, Rule] = {
    # The numbers and group names of all people.
    "GET /metrics": Rule(Role.ADMIN, TokenScope.READ),
    "GET /v1/jobs": _READ_SHARED,
    "POST /v1/jobs": _SUBMIT_TAGGED,
    "POST /v1/jobs:batch": _SUBMIT_TAGGED,
    "POST /v1/jobs:plan": _READ_TAGGED,
    "GET /v1/jobs/{job_id}": _READ_SHARED_JOB,
    "PATCH /v1/jobs/{job_id}": _CHANGE_JOB,
    "DELETE /v1/jobs/{job_id}": _CHANGE_JOB,
    "GET /v1/jobs/{job_id}/analyses": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/analysis": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/attempts": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/checkpoints": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/checkpoints/{checkpoint}/weights": _READ_JOB,
    "HEAD /v1/jobs/{job_id}/checkpoints/{checkpoint}/weights": _READ_JOB,
    "GET /v1/jobs/{job_id}/confusion": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/envelope": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/events": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/export": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/lineage": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/logs": _READ_JOB,
    "GET /v1/jobs/{job_id}/metrics": _READ_SHARED_JOB,
    # It changes nothing.
    "POST /v1/jobs/{job_id}/predictions": _READ_JOB,
    "GET /v1/jobs/{job_id}/progress": _READ_SHARED_JOB,
    "GET /v1/jobs/{job_id}/result-card": _READ_SHARED_JOB,
    "POST /v1/jobs/{job_id}/hold": _CHANGE_JOB,
    "POST /v1/jobs/{job_id}/release": _CHANGE_JOB,
    "POST /v1/jobs/{job_id}/pause": _CHANGE_JOB,
    "POST /v1/jobs/{job_id}/resume": _CHANGE_JOB,
    "POST /v1/jobs/{job_id}/cancel": _CHANGE_JOB,
    "POST /v1/jobs/{job_id}/kill": _CHANGE_JOB,
    "POST /v1/jobs/{job_id}/clone": _submit(Subject.JOB, is_tagged=True),
    "GET /v1/export": _READ_SHARED,
    "GET /v1/groups": _READ_SHARED,
    "GET /v1/metrics": _READ_SHARED,
    "GET /v1/predictions": _READ_TAGGED,
    "GET /v1/stream": _READ_SHARED,
    "POST /v1/analyses": _SUBMIT,
    "GET /v1/searches": _READ,
    "POST /v1/searches": _SUBMIT,
    "GET /v1/searches/{search_id}": _READ_SEARCH,
    "PATCH /v1/searches/{search_id}": _CHANGE_SEARCH,
    "DELETE /v1/searches/{search_id}": _CHANGE_SEARCH,
    "GET /v1/searches/{search_id}/trials": _READ_SEARCH,
    "GET /v1/searches/{search_id}/importance": _READ_SEARCH,
    "GET /v1/searches/{search_id}/export": _READ_SEARCH,
    "GET /v1/searches/{search_id}/events": _READ_SEARCH,
    "POST /v1/searches/{search_id}/pause": _CHANGE_SEARCH,
    "POST /v1/searches/{search_id}/resume": _CHANGE_SEARCH,
    "POST /v1/searches/{search_id}/cancel": _CHANGE_SEARCH,
    "POST /v1/searches/{search_id}/extend": _CHANGE_SEARCH,
    "POST /v1/searches/{search_id}/confirm": _submit(Subject.SEARCH),
    "GET /v1/study-definitions": _READ,
    "GET /v1/studies": _READ,
    "POST /v1/studies": _SUBMIT,
    "GET /v1/studies/{study_id}": _READ_SHARED_STUDY,
    "DELETE /v1/studies/{study_id}": _change(Subject.STUDY),
    "GET /v1/studies/{study_id}/export": _READ_SHARED_STUDY,
    "GET /v1/studies/{study_id}/report": _READ_SHARED_STUDY,
    "POST /v1/comparisons": _SUBMIT,
    "GET /v1/comparisons/{comparison_id}": _READ_SHARED_STUDY,
    "GET /v1/models": _READ,
    # A new version of a model is for its owner only.
    "POST /v1/models": _SUBMIT,
    "GET /v1/models:resolve": _READ,
    "GET /v1/models:download": _READ,
    "GET /v1/models/{model_id}": _READ_MODEL,
    "DELETE /v1/models/{model_id}": _CHANGE_MODEL,
    "GET /v1/models/{model_id}/versions": _READ_MODEL,
    "DELETE /v1/models/{model_id}/versions/{version}": _CHANGE_MODEL,
    "PUT /v1/models/{model_id}/aliases/{alias}": _CHANGE_MODEL,
    "DELETE /v1/models/{model_id}/aliases/{alias}": _CHANGE_MODEL,
    "GET /v1/models/{model_id}/events": _READ_MODEL,
    "GET /v1/datasets": _READ_TAGGED,
    "POST /v1/datasets": _SUBMIT,
    # The file of an upload has its owner.
    "DELETE /v1/datasets/{dataset}": Rule(Role.MEMBER, TokenScope.FULL),
    "GET /v1/recipes": _READ_TAGGED,
    "GET /v1/signing-key": _READ_TAGGED,
    "GET /v1/cluster": _READ_TAGGED,
    "GET /v1/runners": _READ_TAGGED,
    "GET /v1/queue": _READ_TAGGED,
    "GET /v1/webhooks": _READ,
    "POST /v1/webhooks": Rule(Role.MEMBER, TokenScope.FULL),
    "DELETE /v1/webhooks/{webhook_id}": _CHANGE_WEBHOOK,
    "POST /v1/webhooks/{webhook_id}/ping": _CHANGE_WEBHOOK,
    "GET /v1/webhooks/{webhook_id}/deliveries": _READ_WEBHOOK,
    "GET /v1/alerts": _READ,
    "POST /v1/alerts": Rule(Role.MEMBER, TokenScope.FULL),
    "DELETE /v1/alerts/{alert_id}": _CHANGE_ALERT,
    "POST /v1/alerts/{alert_id}/test": _CHANGE_ALERT,
    "GET /v1/alerts/{alert_id}/deliveries": _read(Subject.ALERT),
    "GET /v1/shares": _READ,
    "POST /v1/shares": Rule(Role.MEMBER, TokenScope.FULL),
    "DELETE /v1/shares/{share_id}": _change(Subject.SHARE),
    "GET /v1/session": _READ_SHARED,
    "DELETE /v1/session": _READ_SHARED,
    "GET /v1/tokens": _OWN_TOKENS,
    "POST /v1/tokens": _OWN_TOKENS,
    "DELETE /v1/tokens/{token_id}": _CHANGE_TOKEN,
    "POST /v1/tokens/{token_id}/rotate": _CHANGE_TOKEN,
    "GET /v1/quotas": _READ_TAGGED,
    "PUT /v1/quotas/{key}": _ADMINISTER,
    "DELETE /v1/quotas/{key}": _ADMINISTER,
    "GET /v1/fair-share": _READ,
    "GET /v1/storage": Rule(Role.VIEWER, TokenScope.READ, Subject.PERSON, is_owned=True),
    "PUT /v1/fair-share": _ADMINISTER,
    "GET /v1/audit": _ADMINISTER,
    "GET /v1/people": _ADMINISTER,
    "POST /v1/people": _ADMINISTER,
    "PATCH /v1/people/{name}": _ADMINISTER,
    "DELETE /v1/people/{name}": _ADMINISTER,
}
