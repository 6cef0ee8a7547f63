"""The demo promotes for real: an author, two approvers, an admin, each with a token."""

from mlray.demo_people import people, to_production
from mlray.registry.people import User


def test_the_demo_s_people_bring_a_version_to_production(registry, passed_run, tmp_path):
    registries = people(registry, tmp_path / "people.json")
    version = registries["author"].register("flights", passed_run(b"1"), alias="candidate")

    promoted = to_production(registries, version)

    assert (promoted.stage, promoted.author) == ("Production", "author")
    assert to_production(registries, promoted) == promoted
    assert [(user.name, user.roles) for user in registry.users.list()] == [
        ("admin", ("admin",)),
        ("author", ()),
        ("engineer", ("ml_engineer",)),
        ("officer", ("risk_officer",)),
    ]
    assert registry.check_audit() is None


def test_the_demo_again_is_by_the_same_people(registry, passed_run, tmp_path):
    file = tmp_path / "people.json"
    people(registry, file)

    again = people(registry, file)

    assert again["author"].register("flights", passed_run(b"1")).author == "author"
    assert file.stat().st_mode & 0o777 == 0o600


def test_somebody_who_was_added_without_a_token_kept_gets_another(registry, passed_run, tmp_path):
    file = tmp_path / "people.json"
    people(registry, file)
    text = file.read_text()
    file.write_text(text[: text.index(', "officer"')] + "}")

    again = people(registry, file)

    version = again["author"].register("flights", passed_run(b"1"))
    assert to_production(again, version).stage == "Production"


def test_a_registry_with_people_of_its_own_is_left_to_them(registry, tmp_path):
    registry.users.add("root")

    assert people(registry, tmp_path / "people.json") == {}
    assert registry.users.list() == [User(name="root", roles=("admin",), disabled=False)]
