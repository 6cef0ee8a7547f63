"""The raw files into the lake, once."""

from pathlib import Path

import pytest
from deltalake import DeltaTable

from mlray.pipeline import ingest_tables
from mlray.platform import connect
from mlray.recipe import Recipe

RECIPE = """
[platform]
lake = "{lake}"

[recipe]
service = "configs.flights.features:flights"
tables = "configs.flights.recipe:tables"

[recipe.options]
start = 2013-02-01
end = 2013-02-08
"""
ROWS = {"schedule": 6_083, "departures": 6_009, "weather": 504, "planes": 3_322}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "flights.toml"
    path.write_text(RECIPE.format(lake=tmp_path / "lake"))
    return Recipe.load(path)


def lake_of(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Rows and Delta version of each table."""
    tables = {name: DeltaTable(f"{recipe.settings.lake}/{name}") for name in ROWS}
    return {name: (table.to_pyarrow_dataset().count_rows(), table.version()) for name, table in tables.items()}


def test_ingest_writes_each_table_in_one_commit(recipe: Recipe) -> None:
    done = ingest_tables(recipe, connect(recipe.settings))
    assert {name: (one.rows, one.version) for name, one in done.items()} == {n: (r, 0) for n, r in ROWS.items()}
    assert lake_of(recipe) == {name: (rows, 0) for name, rows in ROWS.items()}


def test_ingesting_twice_changes_nothing(recipe: Recipe) -> None:
    platform = connect(recipe.settings)
    ingest_tables(recipe, platform)
    again = ingest_tables(recipe, platform)
    assert {one.rows for one in again.values()} == {0}
    assert lake_of(recipe) == {name: (rows, 0) for name, rows in ROWS.items()}


def test_the_tables_come_back_from_the_lake_as_they_were(recipe: Recipe) -> None:
    ingest_tables(recipe, connect(recipe.settings))
    for name, table in recipe.tables().items():
        assert DeltaTable(f"{recipe.settings.lake}/{name}").to_pyarrow_table().equals(table), name
