"""Hetzner Cloud by hcloud."""

import requests
from hcloud import APIException, Client
from hcloud.actions.domain import ActionFailedException
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from control import TOKEN, URL, advance, alive, fault, knobs, refused, truth

client = Client(token=TOKEN, api_endpoint=URL + "/v1", poll_interval=0.05)
# Its own retries would hide what is looked at here.
client._client._retry_max_retries = 0


def create(name, **labels):
    return client.servers.create(
        name=name, server_type=ServerType(name="cx23"), image=Image(name="ubuntu-24.04"), location=Location(name="fsn1"),
        user_data="#cloud-config\n", labels={"pool": "p", **labels},
    )


def code(act):
    return refused(act, APIException).code


# A name is there once.
knobs(boots_after=30, deleted_after=10)
made = create("proxy-0", slot="0")
assert made.action.status == "running" and made.server.status == "initializing" and made.server.public_net.ipv4 is None
assert code(lambda: create("proxy-0")) == "uniqueness_error"
advance(31)
made.action.wait_until_finished(100)
made.server.reload()
assert made.server.status == "running" and made.server.public_net.ipv4.ip == truth()["vms"][0]["address"]
assert made.server.labels == {"pool": "p", "slot": "0"} and made.server.created.tzinfo is not None
assert truth()["vms"][0]["user_data"] == "#cloud-config\n"

# A lost reply: the name finds out.
fault("lose_reply", "create")
refused(lambda: create("proxy-1", slot="1"), requests.exceptions.ConnectionError)
assert code(lambda: create("proxy-1", slot="1")) == "uniqueness_error"
assert client.servers.get_by_name("proxy-1").labels["slot"] == "1"
assert alive() == 2

# Selectors and pages.
for slot in range(2, 7):
    create(f"proxy-{slot}", slot=str(slot))
create("other", pool="q")
knobs(page_size=3)
mine = client.servers.get_all(label_selector="pool=p")
assert sorted(server.name for server in mine) == [f"proxy-{slot}" for slot in range(7)]
page = client.servers.get_list(label_selector="pool=p", page=2, per_page=3)
assert len(page.servers) == 3 and page.meta.pagination.next_page == 3 and page.meta.pagination.total_entries == 7
assert [server.name for server in client.servers.get_all(label_selector="pool in (p,q),slot!=0,slot notin (1,2,3,4,5)")] == ["proxy-6", "other"]
assert code(lambda: client.servers.get_list(per_page=51)) == "invalid_input"
assert code(lambda: create("no_name")) == "invalid_input"

# A delete is an action, and the server is gone when it is done.
action = made.server.delete() and client.servers.get_by_id(made.server.id)
assert action.status == "deleting"
advance(11)
assert code(lambda: client.servers.get_by_id(made.server.id)) == "not_found"
assert client.servers.get_by_name("proxy-0") is None
create("proxy-0")

# Refusals.
for refusal, expected in [
    ("quota", "resource_limit_exceeded"), ("no_capacity", "resource_unavailable"), ({"throttled": 3}, "rate_limit_exceeded"),
    ("unavailable", "unavailable"), ("forbidden", "token_readonly"),
]:
    fault({"refuse": refusal}, "create")
    assert code(lambda: create("refused")) == expected
knobs(locked_for=60)
locked = create("locked").server
assert code(locked.delete) == "locked"
assert code(Client(token="stranger", api_endpoint=URL + "/v1").servers.get_all) == "unauthorized"

# A capacity error that comes late, in the action.
knobs(boots_after=5)
fault({"fail_later": "no_capacity"}, "create")
failed = create("late")
advance(6)
error = refused(lambda: failed.action.wait_until_finished(100), ActionFailedException)
assert error.action.error["code"] == "resource_unavailable"
assert client.servers.get_by_name("late") is None
