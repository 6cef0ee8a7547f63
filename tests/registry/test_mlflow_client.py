"""MLflow's own client, unchanged, over real HTTP: it registers, searches, promotes and loads, under our rules."""

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*model registry stages.*:FutureWarning")
RUN = "8c1f0a"


@pytest.fixture
def client(mlflow, http, monkeypatch):
    """MLflow's client, whose runs are where nobody answers. `client.acting` makes it somebody else's."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", http.ana.token)
    mlflow.set_registry_uri(http.url)
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    client = mlflow.MlflowClient()

    @contextmanager
    def acting(caller):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_TOKEN", caller.token)
            yield client

    client.acting = acting
    return client


def refusal(mlflow, code, text):
    """The error that MLflow makes of an answer of ours."""
    return pytest.raises(mlflow.exceptions.RestException, match=rf"(?s)^{code}: .*{text}")


def test_a_registered_model_lives(client, mlflow):
    made = client.create_registered_model("fraud", tags={"team": "payments"}, description="cards")
    assert (made.name, made.tags, made.description) == ("fraud", {"team": "payments"}, "cards")
    assert made.latest_versions == []
    assert made.creation_timestamp == made.last_updated_timestamp > 1_700_000_000_000
    with refusal(mlflow, "RESOURCE_ALREADY_EXISTS", "there is a model 'fraud' already"):
        client.create_registered_model("fraud")

    assert client.update_registered_model("fraud", "all cards").description == "all cards"
    client.set_registered_model_tag("fraud", "two words", "x")
    client.delete_registered_model_tag("fraud", "team")
    client.delete_registered_model_tag("fraud", "team")
    assert client.get_registered_model("fraud").tags == {"two words": "x"}
    client.rename_registered_model("fraud", "cards")

    client.delete_registered_model("cards")
    with refusal(mlflow, "RESOURCE_DOES_NOT_EXIST", "there is no model 'cards'"):
        client.get_registered_model("cards")


def test_a_version_lives(client, mlflow):
    client.create_registered_model("fraud")
    made = client.create_model_version(
        "fraud", f"runs:/{RUN}/model", RUN, tags={"a": "1"}, description="first", run_link="https://runs/8c1f0a"
    )
    assert (made.name, made.version, made.status, made.current_stage) == ("fraud", "1", "READY", "None")
    assert (made.source, made.run_id, made.run_link) == (f"runs:/{RUN}/model", RUN, "https://runs/8c1f0a")
    assert (made.user_id, made.description, made.tags["a"]) == ("ana", "first", "1")

    assert client.update_model_version("fraud", "1", "better").description == "better"
    client.set_model_version_tag("fraud", "1", "b", "2")
    client.delete_model_version_tag("fraud", "1", "a")
    client.set_registered_model_alias("fraud", "candidate", "1")
    found = client.get_model_version("fraud", "1")
    assert (found.tags["b"], "a" in found.tags, list(found.aliases)) == ("2", False, ["candidate"])
    assert client.get_model_version_by_alias("fraud", "candidate").version == "1"
    assert client.get_registered_model("fraud").aliases == {"candidate": "1"}
    client.delete_registered_model_alias("fraud", "candidate")
    client.delete_registered_model_alias("fraud", "candidate")

    client.delete_model_version("fraud", "1")
    with refusal(mlflow, "RESOURCE_DOES_NOT_EXIST", "fraud/1"):
        client.get_model_version("fraud", "1")


def test_a_version_is_promoted_when_it_has_its_approvals(client, mlflow, team):
    team.version(b"1")
    with refusal(mlflow, "PERMISSION_DENIED", "it lacks an approval as ml_engineer; an approval as risk_officer"):
        client.transition_model_version_stage("fraud", "1", "Production", archive_existing_versions=True)

    for number in (1, 2):
        version = team.version(b"1") if number > 1 else team.ana.get("fraud/1")
        team.ben.approve(version, stage="Production", role="ml_engineer")
        team.cleo.approve(version, stage="Production", role="risk_officer")
        moved = client.transition_model_version_stage("fraud", str(number), "production")
        assert (moved.version, moved.current_stage) == (str(number), "Production")

    assert team.stages() == ["Archived", "Production"]
    assert [one.version for one in client.get_latest_versions("fraud", ["Production"])] == ["2"]
    assert {one.current_stage: one.version for one in client.get_latest_versions("fraud")} == {
        "Archived": "1",
        "Production": "2",
    }


def test_staging_is_cleared_when_the_client_asks_for_it(client, team):
    for number in (1, 2, 3):
        team.ana.promote(team.version(b"%d" % number), stage="Staging")
    team.version(b"4")

    client.transition_model_version_stage("fraud", "4", "Staging", archive_existing_versions=True)

    assert team.stages() == ["Archived", "Archived", "Archived", "Staging"]


def test_canary_is_a_stage_like_any_other(client, team):
    team.version()
    team.ben.approve("fraud/1", stage="Canary", role="ml_engineer")

    assert client.transition_model_version_stage("fraud", "1", "Canary").current_stage == "Canary"
    assert [one.version for one in client.get_latest_versions("fraud", ["canary"])] == ["1"]


def test_a_stage_that_there_is_not_is_refused(client, mlflow, team):
    team.version()

    with refusal(mlflow, "INVALID_PARAMETER_VALUE", "there is no stage 'Prodution'.*did you mean 'Production'"):
        client.transition_model_version_stage("fraud", "1", "Prodution")
    client.transition_model_version_stage("fraud", "1", "staging")
    with refusal(mlflow, "RESOURCE_CONFLICT", "from there the policy lets it go to"):
        client.transition_model_version_stage("fraud", "1", "None")


def test_models_are_searched(client, mlflow, team):
    for name, tag in (("fraud", "payments"), ("frost", "weather"), ("churn", "payments")):
        client.create_registered_model(name, tags={"team": tag})
    team.version(model="fraud")

    def names(text=None, **more):
        return [one.name for one in client.search_registered_models(text, **more)]

    assert names() == ["churn", "fraud", "frost"]
    assert names("name = 'fraud'") == names("name LIKE 'fra%'") == ["fraud"]
    assert names("tags.team = 'payments' AND name ILIKE 'FR%'") == ["fraud"]
    assert names("tag.`team` != 'payments'") == ["frost"]
    assert names("name IN ('churn', 'frost')") == ["churn", "frost"]
    assert names(order_by=["name DESC"]) == ["frost", "fraud", "churn"]
    assert names("tags.`mlflow.prompt.is_prompt` = 'true'") == []
    [fraud] = client.search_registered_models("name = 'fraud'")
    assert [one.version for one in fraud.latest_versions] == ["1"]
    with refusal(mlflow, "INVALID_PARAMETER_VALUE", "the filter, at character 1: there is no field 'nam'"):
        names("nam = 'fraud'")


def test_a_search_is_paged(client):
    for letter in "abcde":
        client.create_registered_model(letter)

    pages, token = [], None
    while not pages or token:
        page = client.search_registered_models(max_results=2, page_token=token)
        pages.append([one.name for one in page])
        token = page.token

    assert pages == [["a", "b"], ["c", "d"], ["e"]]


def test_versions_are_searched(client, team):
    for number in (1, 2, 3):
        team.version(b"%d" % number)
    team.version(b"4", model="other")
    client.set_model_version_tag("fraud", "2", "reviewed", "yes")

    def found(text=None, **more):
        return [f"{one.name}/{one.version}" for one in client.search_model_versions(text, **more)]

    assert found("name = 'fraud'", order_by=["version_number ASC"]) == ["fraud/1", "fraud/2", "fraud/3"]
    assert found("name = 'fraud'")[0] == "fraud/2"
    assert found("name = 'fraud' AND version_number > 1", order_by=["version_number DESC"]) == ["fraud/3", "fraud/2"]
    assert found("tags.reviewed = 'yes'") == ["fraud/2"]
    assert found("run_id IN ('run-1')", order_by=["name DESC"])[0] == "other/1"
    assert found("name NOT IN ('fraud')") == ["other/1"]
    assert found("source_path LIKE 'runs:%'") == []


@pytest.mark.parametrize("reference", ["fraud/1", "fraud@candidate", "fraud/Production", "fraud/latest"])
def test_a_version_is_loaded_byte_for_byte(client, mlflow, team, tmp_path, reference):
    run = team.make_run(bytes(range(256)) * 10_000)
    Path(run.checkpoint, "nested", "ünïcode").mkdir(parents=True)
    Path(run.checkpoint, "nested", "ünïcode", "a b.txt").write_bytes(b"deep")
    version = team.ana.register("fraud", run, alias="candidate")
    team.root.set_policy(team.root.policy().model_copy(update={"stages": {}}))
    team.ana.promote(version, stage="Production")

    assert client.get_model_version_download_uri("fraud", "1").startswith("http://127.0.0.1:")
    copy = Path(mlflow.artifacts.download_artifacts(f"models:/{reference}", dst_path=str(tmp_path / "copy")))

    def files(root):
        return {path.relative_to(root): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}

    assert files(copy) == files(run.checkpoint)


def test_behind_a_proxy_files_are_fetched_from_where_the_settings_say(client, http_server, team):
    app, _ = http_server
    config = replace(app.state.backend.config, url="https://registry.example/ml/")
    app.state.backend = replace(app.state.backend, config=config)
    team.version()

    assert client.get_model_version_download_uri("fraud", "1") == (
        "https://registry.example/ml/api/2.0/mlflow-artifacts/artifacts/fraud/1"
    )


def test_one_file_of_a_version_is_loaded(mlflow, client, team, tmp_path):  # noqa: ARG001
    team.version(b"weights")

    file = mlflow.artifacts.download_artifacts("models:/fraud/1/model.safetensors", dst_path=str(tmp_path / "copy"))

    assert Path(file).read_bytes() == b"weights"


def test_damaged_bytes_are_not_loaded(client, mlflow, team, urls, tmp_path):  # noqa: ARG001
    content = bytes(range(256)) * 20_000
    team.version(content)
    blob = next(path for path in Path(urls[1]).rglob("*") if path.is_file() and path.stat().st_size == len(content))
    blob.write_bytes(content[:-1] + b"?")

    with pytest.raises(Exception, match=r"(?s)model\.safetensors"):
        mlflow.artifacts.download_artifacts("models:/fraud/1", dst_path=str(tmp_path / "copy"))


def test_a_creation_whose_answer_was_lost_makes_no_second_version(client, team):
    client.create_registered_model("fraud")

    made = [client.create_model_version("fraud", f"runs:/{RUN}/model", RUN).version for _ in range(3)]
    other = client.create_model_version("fraud", f"runs:/{RUN}/model", RUN, tags={"again": "yes"})

    assert (made, other.version) == (["1", "1", "1"], "2")
    assert team.stages() == ["None", "None"]


def test_what_was_deleted_can_be_created_again(client):
    client.create_registered_model("fraud")
    client.create_model_version("fraud", f"runs:/{RUN}/model", RUN)
    client.delete_model_version("fraud", "1")

    assert client.create_model_version("fraud", f"runs:/{RUN}/model", RUN).version == "2"


def test_the_example_of_the_page_works(client, http, team):  # noqa: ARG001
    page = Path(__file__).parents[2] / "docs" / "registry_guide.md"
    [example] = re.findall(r"^```py\n(.*?)^```$", page.read_text(), re.M | re.S)
    team.approved(b"weights")
    names = {}

    exec(example.replace("http://127.0.0.1:8600", http.url), names)

    assert Path(names["folder"], "model.safetensors").read_bytes() == b"weights"
    assert team.stages() == ["Production"]


# Every way into Production but the one, through MLflow's client.


def test_the_protected_alias_points_at_production_only(client, mlflow, team):
    team.version()

    with refusal(mlflow, "PERMISSION_DENIED", "fraud@champion is a protected alias.*an approval as risk_officer"):
        client.set_registered_model_alias("fraud", "champion", "1")


def test_a_copy_takes_no_approval_along(client, mlflow, http, team):
    team.approved()

    with client.acting(http.ben):
        copies = [client.copy_model_version("models:/fraud/1", "other") for _ in range(2)]
        assert {(one.name, one.version, one.current_stage, one.user_id) for one in copies} == {
            ("other", "1", "None", "ben")
        }
        with refusal(mlflow, "PERMISSION_DENIED", "other/1 may not enter Production, it lacks an approval"):
            client.transition_model_version_stage("other", "1", "Production")
    assert team.ana.get("other/1").digest == team.ana.get("fraud/1").digest


def test_a_live_model_is_neither_deleted_nor_renamed_by_anybody(client, mlflow, team):
    team.production()

    for change in (
        lambda: client.delete_registered_model("fraud"),
        lambda: client.delete_model_version("fraud", "1"),
        lambda: client.rename_registered_model("fraud", "mine"),
        lambda: client.transition_model_version_stage("fraud", "1", "Archived"),
    ):
        with refusal(mlflow, "PERMISSION_DENIED", "that takes the role"):
            change()


def test_a_model_made_again_goes_on_with_its_numbers_and_from_nothing(client, mlflow, http, team):
    team.approved()
    with client.acting(http.ben):
        client.delete_registered_model("fraud")
    again = team.version()

    assert again.version == 2
    with refusal(mlflow, "PERMISSION_DENIED", "fraud/2 may not enter Production"):
        client.transition_model_version_stage("fraud", "2", "Production")


def test_a_tag_opens_nothing(client, mlflow, team):
    team.version()
    for key in ("approved_by", "gate.evaluation", "stage"):
        client.set_model_version_tag("fraud", "1", key, "Production")

    with refusal(mlflow, "PERMISSION_DENIED", "it lacks an approval as ml_engineer"):
        client.transition_model_version_stage("fraud", "1", "Production")


def test_a_version_of_unverified_bytes_stays_in_none(client, mlflow):
    client.create_registered_model("fraud")
    client.create_model_version("fraud", f"runs:/{RUN}/model", RUN)

    assert client.get_model_version_download_uri("fraud", "1") == f"runs:/{RUN}/model"
    with refusal(mlflow, "PERMISSION_DENIED", "nobody has verified its bytes"):
        client.transition_model_version_stage("fraud", "1", "Staging")


@pytest.mark.parametrize(
    "source",
    ["/etc/passwd", "file:///etc/passwd", "runs:/8c1f0a/%252e%252e/x", "runs:/other/model", "s3://bucket/a/../b",
     "http://169.254.169.254/latest", "runs:/8c1f0a/m#x", "s3://bucket/a\x00b", "models:/m-123", "ftp://host/x"],
)  # fmt: skip
def test_a_source_outside_the_allowed_ones_is_refused(client, mlflow, source):
    client.create_registered_model("fraud")

    with refusal(mlflow, "INVALID_PARAMETER_VALUE", ""):
        client.create_model_version("fraud", source, RUN)


def test_a_prompt_is_no_model(client, mlflow):
    client.create_registered_model("fraud")

    with refusal(mlflow, "INVALID_PARAMETER_VALUE", "this registry keeps models, no prompts"):
        client.set_registered_model_tag("fraud", "mlflow.prompt.is_prompt", "true")


def test_without_a_token_nothing_is_told(client, mlflow, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")

    with refusal(mlflow, "UNAUTHENTICATED", "a change needs a token"):
        client.search_registered_models()
