"""`client.models`: names for weights, with numbered versions and aliases."""

from collections.abc import Iterator
from pathlib import Path

from resnetd import downloads, timm_layout
from resnetd.models import Event, Model, ModelAlias, ModelVersion
from resnetd.resources import PAGE_SIZE, Resource


class ModelRegistry(Resource):
    """The model registry.

    A reference is `NAME@ALIAS`, `NAME@NUMBER`, or `NAME` for the newest version. Methods raise
    NotFound where there is no such model, alias or version.
    """

    PATH = "/v1/models"

    def register(
        self, name: str, job_id: str, *, checkpoint: str = "newest", note: str = ""
    ) -> ModelVersion:
        """Make a checkpoint the next version of a model; the first version creates the model.

        As long as the version exists, the checkpoint and its job are kept. The request is not
        repeated.

        Args:
            name: such as `resnet-56/course`.
            checkpoint: `newest` (default), `best`, or an id. Only the last checkpoint of a
                finished training has exports, as for ONNX.
            note: what is new, or why.

        >>> client.models.register("resnet-8/course", finished.id, note="first").version
        1

        Raises:
            Forbidden: the job or the model belongs to another person.
            Conflict: the model has this checkpoint already, or another person has the name.
        """
        body = {"name": name, "job": job_id, "checkpoint": checkpoint, "note": note}
        return self._api.post_once(self.PATH, ModelVersion, body)

    def list(self) -> Iterator[Model]:
        """Iterate over the models with their aliases, newest first.

        >>> [found.name == model.name for found in client.models.list()]
        [True]
        """
        return self._api.get_pages(self.PATH, "models", Model, {"limit": PAGE_SIZE})

    def get(self, name: str) -> Model:
        """Return a model with its aliases.

        >>> client.models.get(model.name).newest_version
        1
        """
        return self._api.get(self._path_of(name), Model)

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return the versions of a model with their lineage, newest first.

        >>> [found.lineage.test_error for found in client.models.versions(model.name)]
        [2.5]
        """
        return self._api.get_list(self._path_of(name, "versions"), "versions", ModelVersion)

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version that a reference names now.

        >>> client.models.resolve(model.name + "@1").job_id == model.job_id
        True
        """
        return self._api.get(f"{self.PATH}:resolve", ModelVersion, {"ref": reference})

    def promote(self, name: str, alias: str, *, version: int, note: str = "") -> ModelAlias:
        """Point an alias to a version: promote it, or roll back to an earlier one.

        Args:
            alias: such as `production`; lower-case letters, digits and `-`.
            note: why; the history of the model keeps it.

        >>> client.models.promote(model.name, "production", version=1, note="2.5 %").version
        1
        >>> client.models.resolve(model.name + "@production").version
        1
        """
        path = self._path_of(name, "aliases", alias)
        return self._api.put(path, ModelAlias, {"version": version, "note": note})

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias. Its version stays.

        >>> _ = client.models.promote(model.name, "staging", version=1)
        >>> client.models.remove_alias(model.name, "staging")
        """
        self._api.delete(self._path_of(name, "aliases", alias))

    def history(self, name: str) -> Iterator[Event]:
        """Iterate over registrations, promotions and deletions with person and note, oldest first.

        >>> [event.kind for event in client.models.history(model.name)]
        [<EventKind.REGISTERED: 'registered'>]
        """
        return self._api.get_numbered(self._path_of(name, "events"), "events", Event, after=0)

    def delete_version(self, name: str, version: int) -> None:
        """Delete a version that has no alias and is not the only one. Its job stays.

        >>> client.models.delete_version(model.name, 1)
        Traceback (most recent call last):
        resnetd.errors.Conflict: version 1 is the only one of resnet-8/course; delete the model

        Raises:
            Conflict: it has an alias, or is the only version.
        """
        self._api.delete(self._path_of(name, "versions", str(version)))

    def delete(self, name: str) -> None:
        """Delete a model that has no alias, with its versions. Their jobs stay.

        >>> client.models.delete(model.name)

        Raises:
            Conflict: it has an alias.
        """
        self._api.delete(self._path_of(name))

    def download(
        self,
        reference: str,
        *,
        format: str = "safetensors",  # noqa: A002 - the name in the API
        path: str | Path | None = None,
        on_progress: downloads.OnProgress | None = None,
    ) -> Path:
        """Download the weights of a version, verify their checksum, and return their path.

        Args:
            format: as in `client.jobs.download`.
            path: a file, which is replaced, or a folder. Default: the working directory; for
                `timm` a new folder in it.
            on_progress: called with the bytes received so far and in total, None if unknown.

        >>> client.models.download(model.name + "@1", path="net.safetensors")
        PosixPath('net.safetensors')

        Raises:
            CorruptDownload: the bytes do not match their checksum. Nothing is left on disk
                after an error.
            NoSuchNetwork: timm has no network that computes the same logits.
        """
        if format == timm_layout.FORMAT:
            return self._download_timm(reference, path, on_progress)
        return downloads.download(
            self._api,
            f"{self.PATH}:download",
            {"ref": reference, "format": format},
            path=Path(path or "."),
            default_name=f"model.{format}",
            on_progress=on_progress,
        )

    def _download_timm(
        self,
        reference: str,
        path: str | Path | None,
        on_progress: downloads.OnProgress | None,
    ) -> Path:
        # The alias may move meanwhile: the name of the folder is that of the weights.
        found = self.resolve(reference)
        stem = f"{found.name.replace('/', '-')}-v{found.version}"
        exact = f"{found.name}@{found.version}"
        return timm_layout.download(
            lambda file: self.download(exact, path=file, on_progress=on_progress),
            Path(path or f"{stem}-{timm_layout.FORMAT}"),
        )

    def _path_of(self, name: str, *segments: str) -> str:
        """Paths have the id of a model, whose name may have slashes."""
        return self._path(self.resolve(name.partition("@")[0]).model_id, *segments)
