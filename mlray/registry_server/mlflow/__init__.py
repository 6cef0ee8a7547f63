"""The routes of MLflow's registry, by its REST documentation, over our rules. Nothing of MLflow is imported."""
