"""The registry over HTTP: a REST API of its own, and the routes that an unchanged MLflow client asks for."""
