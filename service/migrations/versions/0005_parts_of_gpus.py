"""parts of GPUs"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "attempts", "runners")


def upgrade() -> None:
    for table in _TABLES:
        with op.batch_alter_table(table) as changed:
            changed.alter_column("gpus_per_worker", type_=sa.Double(), existing_type=sa.Integer())


def downgrade() -> None:
    for table in _TABLES:
        # Who had a part has the whole one.
        gpus: sa.ColumnClause[float] = sa.column("gpus_per_worker")
        op.execute(sa.update(sa.table(table, gpus)).where(gpus > 0).values(gpus_per_worker=1))
        with op.batch_alter_table(table) as changed:
            changed.alter_column("gpus_per_worker", type_=sa.Integer(), existing_type=sa.Double())
