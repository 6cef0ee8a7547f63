"""Run by Alembic: the connection, and with it the transaction, is the caller's."""

from alembic import context

from mlray.registry.tables import RegistryTable

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=RegistryTable.metadata,
    render_as_batch=True,
)
context.run_migrations()
