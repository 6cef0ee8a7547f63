"""Settings of a server: contradictions and slips are told at once."""

import pytest

from mlray.errors import ConfigError
from mlray.serving.config import Config
from mlray.serving.ingress import serve_environment, url_of


def test_a_table_of_settings_becomes_a_configuration() -> None:
    assert Config.of({"port": 8080, "allow_at": True, "cpus": 1}) == Config(port=8080, allow_at=True, cpus=1)


def test_models_to_explain_are_all_none_or_named() -> None:
    assert [Config.of({"explain": given}).explains("fraud") for given in (True, False, ["fraud"], ["iris"], [])] == [
        True, False, True, False, False,
    ]


@pytest.mark.parametrize(("settings", "wrong"), [
    ({"prot": 8080}, "serving: there is no setting 'prot'"),
    ({"port": "8080"}, "serving: port='8080' is str; it must be int"),
    ({"allow_at": 1}, "serving: allow_at=1 is int; it must be bool"),
    ({"port": 0}, "serving: port=0; it must be a port from 1 to 65535"),
    ({"log_seconds": 0}, "serving: log_seconds=0; it must be above 0"),
    ({"log_capacity": 10}, "serving: log_capacity=10; it must be max_rows=1000 or more"),
    ({"max_explained": 200, "max_rows": 1, "log_capacity": 100}, "log_capacity=100; it must be max_explained=200"),
    ({"log": ""}, "every prediction is logged"),
    ({"ingest": "orders"}, "serving: ingest='orders'; it must be true, false or a list of names of sources"),
    ({"explain": ["fraud", 3]}, "it must be true, false or a list of names of models"),
    ({"max_explained": 0}, "serving: max_explained=0; it must be 1 or more"),
])
def test_a_setting_that_cannot_work_is_named(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Config.of(settings)


def test_a_server_on_every_address_is_reached_on_this_machine() -> None:
    assert url_of("0.0.0.0", 8000) == "http://127.0.0.1:8000"
    assert url_of("::", 8000) == "http://[::1]:8000"
    assert url_of("example.org", 80) == "http://example.org:80"


def test_the_environment_of_the_fast_proxy_is_plain_text() -> None:
    assert all(isinstance(value, str) for value in serve_environment().values())
