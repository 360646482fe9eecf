"""Models of the registry, their versions and aliases, and which checkpoints a version keeps."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import Conflict, NotFound
from service.specs.model_lineage import ModelLineage
from service.specs.model_reference import parse_reference
from service.storage import paging
from service.storage.paging import Page
from service.storage.tables import (
    CheckpointRow,
    JobRow,
    ModelAliasRow,
    ModelRow,
    ModelVersionRow,
)
from service.storage.visibility import VISIBLE_ROWS, find_visible


@dataclass(frozen=True)
class ModelVersion:
    """A version with its model and the aliases that point to it."""

    model: ModelRow
    row: ModelVersionRow
    aliases: Sequence[str]


def find_model(session: Session, model_id: str) -> ModelRow:
    model = None
    if ids.is_id(model_id):
        model = session.get(ModelRow, model_id, execution_options=VISIBLE_ROWS)
    if model is None:
        raise NotFound(f"no model {model_id!r}")
    return model


def resolve(session: Session, reference: str) -> ModelVersion:
    """The version that a ModelReference names. NotFound says what there is instead."""
    wanted = parse_reference(reference)
    statement = select(ModelRow).where(ModelRow.name == wanted.name)
    model = session.scalar(statement, execution_options=VISIBLE_ROWS)
    if model is None:
        raise NotFound(f"no model {wanted.name!r}")
    number = wanted.number
    if wanted.alias is not None:
        aliases = {row.alias: row.version for row in list_aliases(session, [model.id])[model.id]}
        if wanted.alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise NotFound(f"{model.name} has no alias {wanted.alias!r}; its aliases: {known}")
        number = aliases[wanted.alias]
    return find_version(session, model, number)


def find_version(session: Session, model: ModelRow, number: int | None) -> ModelVersion:
    """None: the newest."""
    if number is None:
        number = find_newest_numbers(session, [model.id])[model.id]
    row = session.get(ModelVersionRow, (model.id, number))
    if row is None:
        newest = find_newest_numbers(session, [model.id])[model.id]
        raise NotFound(f"{model.name} has no version {number}; the newest is {newest}")
    aliases = list_aliases(session, [model.id])[model.id]
    return _make_version(model, row, aliases)


def find_checkpoint(session: Session, version: ModelVersion) -> CheckpointRow:
    """NotFound where it was deleted, which only a check of the artifact store does."""
    checkpoint = session.get(CheckpointRow, version.row.checkpoint_id)
    if checkpoint is None:
        raise NotFound(
            f"checkpoint {version.row.checkpoint_id}, version {version.row.number} of "
            f"{version.model.name}, was deleted: its files were missing or damaged"
        )
    return checkpoint


def lineage_of(version: ModelVersionRow) -> ModelLineage:
    return ModelLineage.model_validate(version.lineage)


def list_page(session: Session, *, limit: int, token: str | None) -> Page[ModelRow]:
    """Newest first. InvalidInput where `token` is not the token of a page."""
    return paging.read_newest(session, select(ModelRow), ModelRow.id, limit=limit, token=token)


def list_versions(session: Session, model: ModelRow) -> list[ModelVersion]:
    """Newest first."""
    statement = (
        select(ModelVersionRow)
        .where(ModelVersionRow.model_id == model.id)
        .order_by(ModelVersionRow.number.desc())
    )
    aliases = list_aliases(session, [model.id])[model.id]
    return [_make_version(model, row, aliases) for row in session.scalars(statement)]


def _make_version(
    model: ModelRow, row: ModelVersionRow, aliases: Iterable[ModelAliasRow]
) -> ModelVersion:
    """`aliases`: of the model."""
    own = [alias.alias for alias in aliases if alias.version == row.number]
    return ModelVersion(model, row, own)


def list_aliases(session: Session, model_ids: Iterable[str]) -> dict[str, list[ModelAliasRow]]:
    """By model, in the order of their names; also for models without one."""
    statement = (
        select(ModelAliasRow)
        .where(ModelAliasRow.model_id.in_(tuple(model_ids)))
        .order_by(ModelAliasRow.alias)
    )
    found: dict[str, list[ModelAliasRow]] = defaultdict(list)
    for row in session.scalars(statement):
        found[row.model_id].append(row)
    return found


def find_newest_numbers(session: Session, model_ids: Iterable[str]) -> dict[str, int]:
    """The number of the newest version that there is, by model."""
    statement = (
        select(ModelVersionRow.model_id, func.max(ModelVersionRow.number))
        .where(ModelVersionRow.model_id.in_(tuple(model_ids)))
        .group_by(ModelVersionRow.model_id)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def list_names(session: Session, job_id: str) -> dict[str, list[str]]:
    """By id of the job's checkpoints, the references to their versions: `name@2`, `name@alias`."""
    rows = session.execute(
        select(
            ModelVersionRow.checkpoint_id,
            ModelRow.name,
            ModelVersionRow.number,
            ModelAliasRow.alias,
        )
        .select_from(ModelVersionRow)
        .join(ModelRow, ModelRow.id == ModelVersionRow.model_id)
        .outerjoin(
            ModelAliasRow,
            and_(
                ModelAliasRow.model_id == ModelVersionRow.model_id,
                ModelAliasRow.version == ModelVersionRow.number,
            ),
        )
        .where(ModelVersionRow.job_id == job_id)
        .order_by(ModelRow.name, ModelVersionRow.number, ModelAliasRow.alias)
    )
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for checkpoint_id, name, number, alias in rows:
        found[checkpoint_id].setdefault(f"{name}@{number}")
        if alias is not None:
            found[checkpoint_id].setdefault(f"{name}@{alias}")
    return {checkpoint_id: list(names) for checkpoint_id, names in found.items()}


def find_registered(session: Session, checkpoint_ids: Iterable[str]) -> set[str]:
    """Those of the checkpoints that are versions of models."""
    wanted = ModelVersionRow.checkpoint_id.in_(tuple(checkpoint_ids))
    return set(session.scalars(select(ModelVersionRow.checkpoint_id).where(wanted)))


def require_unregistered(session: Session, job: JobRow) -> None:
    """Conflict where a version of a model is a checkpoint of the locked job."""
    rows = session.execute(
        select(ModelRow.id, ModelRow.name, ModelVersionRow.number)
        .select_from(ModelVersionRow)
        .join(ModelRow, ModelRow.id == ModelVersionRow.model_id)
        .where(ModelVersionRow.job_id == job.id)
        .order_by(ModelRow.name, ModelVersionRow.number)
    ).all()
    if not rows:
        return
    visible = find_visible(session, ModelRow, [row.id for row in rows])
    named = [f"{row.name}@{row.number}" for row in rows if row.id in visible]
    versions = f"{', '.join(named)} in the model registry" if named else "a registered model"
    raise Conflict(f"job {job.id} has the weights of {versions}; delete the version first")
