RULES = {
    "create_peeling": "signed_in",
    "list_peelings": "signed_in",
    "get_peeling": "owner_or_admin",
    "update_peeling": "owner_or_admin",
    "delete_peeling": "owner_or_admin",
    "export_peelings": "signed_in",
    "upload_peeling": "signed_in",
    "replace_peeling": "owner_or_admin",
    "cook_peeling": "owner_or_admin",
}


async def test_a_peeling_is_a_row_like_any_other(alice):
    made = (await alice.post("/peelings", json={"title": "Soup"})).json()
    assert (await alice.get("/peelings/1")).json() == made
    assert (await alice.patch("/peelings/1", json={"title": "Stew"})).json()["title"] == "Stew"
    assert (await alice.delete("/peelings/1")).status_code == 204
    assert (await alice.get("/peelings")).json()["items"] == []


async def test_a_user_with_peelings_cannot_be_deleted(admin, bob):
    await bob.post("/peelings", json={"title": "Bob's"})
    refused = await admin.delete(f"/users/{bob.user_id}")
    assert (refused.status_code, refused.json()["fields"]) == (409, ["owner_id"])
