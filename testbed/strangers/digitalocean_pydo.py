"""DigitalOcean by pydo."""

from azure.core.exceptions import HttpResponseError, ServiceResponseError
from pydo import Client

from control import TOKEN, URL, advance, alive, fault, knobs, refused, truth

PLAIN = {"enforce_https": False}
client = Client(TOKEN, endpoint=URL, retry_total=0)


def body(name, *tags):
    return {
        "name": name, "region": "lon1", "size": "s-1vcpu-1gb", "image": "ubuntu-24-04-x64", "tags": ["pool:p", *tags],
        "user_data": "#!/bin/sh\n",
    }


def create(name, *tags):
    return client.droplets.create(body(name, *tags), **PLAIN)["droplet"]


def listed(**query):
    """All pages."""
    found, page = [], 1
    while True:
        answer = client.droplets.list(page=page, **query, **PLAIN)
        found += answer["droplets"]
        if "next" not in answer["links"].get("pages", {}):
            assert answer["meta"]["total"] == len(found), answer
            return found, page
        page += 1


def status(act):
    """pydo answers with the body of an error, or raises, as its description of the call says."""
    try:
        return act()["id"]
    except HttpResponseError as error:
        return error.status_code


knobs(boots_after=30, address_after=45)
made = create("proxy", "slot:0")
assert made["status"] == "new" and made["networks"]["v4"] == [], made
assert sorted(made["tags"]) == ["pool:p", "slot:0"]
assert truth()["vms"][0]["user_data"] == "#!/bin/sh\n"

# The address is late.
def seen(droplet):
    return client.droplets.get(droplet["id"], **PLAIN)["droplet"]

advance(31)
assert seen(made)["status"] == "active" and seen(made)["networks"]["v4"] == []
advance(15)
assert seen(made)["networks"]["v4"][0]["ip_address"] == truth()["vms"][0]["address"]
assert seen(made)["networks"]["v4"][0]["type"] == "public"

# Nothing but a tag tells of a lost create: names may be there twice.
fault("lose_reply", "create")
refused(lambda: create("proxy", "nonce:1"), ServiceResponseError)
assert len(listed(tag_name="nonce:1")[0]) == 1
create("proxy", "nonce:1")
assert truth("nonce")["twins"][0]["at_once"] == 2 and alive() == 3

# Tags and pages.
answer = client.droplets.create({**body("x"), "name": None, "names": ["a", "b", "c"]}, **PLAIN)
assert [droplet["name"] for droplet in answer["droplets"]] == ["a", "b", "c"]
client.droplets.create({**body("other"), "tags": None}, **PLAIN)
found, pages = listed(tag_name="pool:p", per_page=4)
assert (len(found), pages) == (6, 2)
assert len(listed(name="proxy")[0]) == 3
assert len(listed()[0]) == 7

# A lagging list.
knobs(list_lag=60)
create("young", "slot:9")
assert listed(tag_name="slot:9")[0] == []
advance(61)
assert len(listed(tag_name="slot:9")[0]) == 1
knobs(list_lag=0)

# Deletes.
assert client.droplets.destroy(made["id"], **PLAIN) is None
assert status(lambda: client.droplets.get(made["id"], **PLAIN)) in ("not_found", 404)
assert status(lambda: client.droplets.destroy(made["id"], **PLAIN)) in ("not_found", 404)
assert client.droplets.destroy_by_tag(tag_name="nonce:1", **PLAIN) is None
assert listed(tag_name="nonce:1")[0] == []

# Refusals.
assert status(lambda: client.droplets.create(body("no_name"), **PLAIN)) in ("unprocessable_entity", 422)
assert status(lambda: client.droplets.list(per_page=201, **PLAIN)) in ("unprocessable_entity", 422)
assert status(lambda: Client("stranger", endpoint=URL).droplets.list(**PLAIN)) in ("Unauthorized", 401)
for refusal, expected in [("quota", ("unprocessable_entity", 422)), ({"throttled": 3}, ("too_many_requests", 429)), ("broken", ("server_error", 500))]:
    fault({"refuse": refusal}, "create")
    assert status(lambda: client.droplets.create(body("refused"), **PLAIN)) in expected
