"""What a caller is told while a part that serving needs is away: 503, why, and when to come back."""

from pathlib import Path

from shop import Connect, open_shop, row, service

from mlray.online.state import space

PATH = "/v1/models/fraud/predict"


def test_state_that_is_gone_and_a_store_that_is_closed_are_unavailable(connect: Connect, tmp_path: Path) -> None:
    shop = open_shop(tmp_path / "shop")
    client = connect(of=shop)
    assert client.get("/readyz").status_code == 200

    shop.store.drop(space(service().views[0]))
    refused = client.post(PATH, json={"row": row()})
    assert (refused.status_code, refused.json()["error"]) == (503, "NotMaterialized")
    assert "run platform.materialize" in refused.json()["message"]

    shop.store.close()
    refused = client.post(PATH, json={"row": row()})
    assert (refused.status_code, refused.json()["error"], refused.headers["retry-after"]) == (503, "StoreError", "5")
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert "StoreError" in ready.json()["problems"][0]
    assert client.get("/healthz").status_code == 200
