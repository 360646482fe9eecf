"""nodes of the cluster"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("cluster", sa.Column("nodes", _DOCUMENT, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("cluster", "nodes")
