"""The policy as a file: what it may say, and what is refused."""

import pytest

from mlray.errors import ConfigError, MlrayError
from mlray.registry.policy import Policy, StageRule

FULL = """
protected_aliases = ["champion", "live"]
withdraw = ["operator"]
[moves]
None = ["Production"]
[stages.Production]
approvals = ["risk_officer", "risk_officer"]
gates = ["bias"]
"""


def written(folder, text):
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def test_the_file_in_configs_is_the_default():
    assert Policy.load("configs/policy.toml") == Policy()
    assert Policy.load("configs/policy.toml").revision == Policy().revision


def test_a_policy_says_all_of_it(tmp_path):
    policy = Policy.load(written(tmp_path, FULL))

    assert policy.rule("Production") == StageRule(approvals=("risk_officer", "risk_officer"), gates=("bias",))
    assert policy.rule("Canary") == StageRule()
    assert (policy.moves, policy.withdraw) == ({"None": ("Production",)}, ("operator",))
    assert Policy.parse(policy.to_json()) == policy


def test_the_revision_is_of_what_the_policy_says_and_not_of_how(tmp_path):
    first = Policy.load(written(tmp_path, FULL))

    assert Policy.load(written(tmp_path, f"# a remark\n{FULL}")).revision == first.revision
    assert Policy.load(written(tmp_path, FULL.replace("bias", "fairness"))).revision != first.revision


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stages.Prod]", "there is no stage 'Prod'.*Production"),
        ("[stages.Production]\naprovals = []", "no setting 'stages.Production.aprovals'; known are approvals, gates"),
        ("protected = []", "no setting 'protected'.*protected_aliases"),
        ("[moves]\nNone = ['Stagin']", "there is no stage 'Stagin'.*did you mean 'Staging'"),
        ("[moves]\nStaging = ['None']", "never goes back to None"),
        ("[stages.Canary]\napprovals = ['Risk Officer']", "is refused: a name starts with a lower-case"),
        ("[stages.Canary]\napprovals = 'admin'", "stages.Canary.approvals"),
        ("stages = ", "no policy can be read from"),
        (f"[stages.Canary]\napprovals = {['admin'] * 101}", "stages.Canary.approvals: .* at most 100 items .* not 101"),
        (f"[stages.Canary]\ngates = {['bias'] * 101}", "stages.Canary.gates: .* at most 100 items"),
        (f"withdraw = {['admin'] * 101}", "withdraw: .* at most 100 items"),
        (f"protected_aliases = {['live'] * 101}", "protected_aliases: .* at most 100 items"),
        (f"[moves]\nNone = {['Staging'] * 101}", "moves.None: .* at most 100 items"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, text, message):
    with pytest.raises(MlrayError, match=message):
        Policy.load(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no policy can be read from .*nowhere.toml"):
        Policy.load(tmp_path / "nowhere.toml")
