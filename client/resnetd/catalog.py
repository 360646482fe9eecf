"""`client.datasets` and `client.recipes`: what a spec can name."""

from resnetd.models import Dataset, Recipe
from resnetd.resources import Resource


class Datasets(Resource):
    """Datasets."""

    PATH = "/v1/datasets"

    def list(self) -> tuple[Dataset, ...]:
        """Return the built-in datasets and the image folders under the data directory.

        >>> [dataset.classes for dataset in client.datasets.list() if dataset.name == "digits"]
        [10]
        """
        return self._api.get_list(self.PATH, "datasets", Dataset)

    def delete(self, name: str) -> None:
        """Delete a dataset that the caller has uploaded or, as an admin, that anybody has.

        Args:
            name: as `list` has it, `folder:NAME`.

        >>> client.datasets.delete(upload.name)

        Raises:
            Conflict: unfinished jobs or searches need it.
        """
        self._api.delete(self._path(name))


class Recipes(Resource):
    """Training recipes."""

    PATH = "/v1/recipes"

    def list(self) -> tuple[Recipe, ...]:
        """Return the recipes with their fields as they are for ResNet-20.

        >>> [recipe.fields["batch_size"] for recipe in client.recipes.list()][0]
        128
        """
        return self._api.get_list(self.PATH, "recipes", Recipe)
