"""History: Ray Data over Delta Lake."""
