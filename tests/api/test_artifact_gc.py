import os
from pathlib import Path

import pytest

from service.states import CheckpointPart, Reason
from tests.support.api import serving_new
from tests.support.fake_api import eventually


def test_an_api_deletes_orphans_and_abandoned_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.artifact_gc.INTERVAL_SECONDS", 0.05)
    artifacts = tmp_path / "artifacts"

    def files() -> list[str]:
        # Unlike rglob, os.walk ignores a folder that is deleted meanwhile.
        return [name for _, _, names in os.walk(artifacts) for name in names]

    with serving_new(f"sqlite:///{tmp_path / 'resnetd.db'}", tmp_path) as api:
        claimed = api.core.run()
        assert api.upload(claimed, 40, CheckpointPart.WEIGHTS).status_code == 201
        assert len(files()) == 1, "the attempt may still report it"
        api.core.end(claimed, Reason.CLUSTER_LOST)
        abandoned = api.settings.data_dir / ".upload-abandoned"
        abandoned.mkdir(parents=True)
        # Files have the time of the machine, not that of the API's clock.
        api.core.clock.advance(365 * 24 * 3600.0)
        eventually(lambda: files() == [] and not abandoned.exists())
