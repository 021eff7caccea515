"""Compute Engine by google-cloud-compute."""

from google.api_core.client_options import ClientOptions
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import compute_v1

from control import URL, advance, alive, fault, knobs, refused, truth

HERE = {"project": "shop", "zone": "europe-west3-a"}
ANONYMOUS = {"credentials": AnonymousCredentials(), "client_options": ClientOptions(api_endpoint=URL)}
instances = compute_v1.InstancesClient(**ANONYMOUS)
operations = compute_v1.ZoneOperationsClient(**ANONYMOUS)
# It would look for its operations at Google's, whatever its own endpoint is.
instances.transport._extended_operations_services["zone_operations"] = operations


def insert(name, request_id=None, **labels):
    disk = compute_v1.AttachedDisk(
        boot=True, auto_delete=True, initialize_params={"source_image": "projects/debian-cloud/global/images/family/debian-12"}
    )
    instance = compute_v1.Instance(
        name=name,
        machine_type="zones/europe-west3-a/machineTypes/e2-micro",
        disks=[disk],
        labels={"pool": "p", **labels},
        metadata={"items": [{"key": "startup-script", "value": "#!/bin/sh\n"}]},
        network_interfaces=[{"access_configs": [{"name": "External NAT", "type_": "ONE_TO_ONE_NAT"}]}],
        scheduling={"provisioning_model": "SPOT"},
    )
    return instances.insert({**HERE, "instance_resource": instance, "request_id": request_id}, retry=None, timeout=60)


def get(name):
    return instances.get(**HERE, instance=name)


# An insert is an operation.
knobs(boots_after=30)
operation = insert("proxy-0", slot="0")
assert not operation.done() and get("proxy-0").status == "PROVISIONING"
assert get("proxy-0").network_interfaces[0].access_configs[0].nat_i_p == ""
advance(31)
operation.result(timeout=60)
seen = get("proxy-0")
assert seen.status == "RUNNING" and seen.network_interfaces[0].access_configs[0].nat_i_p == truth()["vms"][0]["address"]
assert dict(seen.labels) == {"pool": "p", "slot": "0"} and seen.scheduling.provisioning_model == "SPOT"
assert truth()["vms"][0]["user_data"] == "#!/bin/sh\n" and truth()["vms"][0]["spot"]
assert operations.wait(**HERE, operation=operation.name).status == compute_v1.Operation.Status.DONE

# A name is there once, and a request id is as good as once.
refused(lambda: insert("proxy-0"), exceptions.Conflict)
REQUEST = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
fault("lose_reply", "create")
refused(lambda: insert("proxy-1", REQUEST, slot="1"), Exception)
assert alive() == 2
assert insert("proxy-1", REQUEST, slot="1").name == "operation-2"
assert alive() == 2

# Filters and pages.
for slot in range(2, 7):
    insert(f"proxy-{slot}", slot=str(slot))
insert("other", pool="q")


def listed(text, **rest):
    return [instance.name for instance in instances.list({**HERE, "filter": text, **rest})]


mine = [f"proxy-{slot}" for slot in range(7)]
assert listed("labels.pool=p", max_results=3) == mine
assert len(list(instances.list({**HERE, "filter": "labels.pool=p", "max_results": 3}).pages)) == 3
assert listed("(labels.pool = p) AND (labels.slot != 0) AND (name != proxy-6)") == mine[1:6]
assert listed("labels.pool=nobody") == []
everywhere = instances.aggregated_list({"project": "shop", "filter": "labels.pool=p", "max_results": 4})
assert [instance.name for _, scoped in everywhere for instance in scoped.instances] == mine
refused(lambda: listed("colour=red"), exceptions.BadRequest)
refused(lambda: insert("No Name"), exceptions.BadRequest)

# Deletes.
knobs(deleted_after=20)
deletion = instances.delete(**HERE, instance="proxy-0")
advance(0)
assert get("proxy-3").status == "PROVISIONING"
advance(21)
deletion.result(timeout=60)
refused(lambda: get("proxy-0"), exceptions.NotFound)
refused(lambda: instances.delete(**HERE, instance="proxy-0"), exceptions.NotFound)

# Refusals: 403 is a rate limit as well.
for refusal, kind, reason in [
    ({"throttled": 3}, exceptions.Forbidden, "rateLimitExceeded"), ("unavailable", exceptions.ServiceUnavailable, "backendError"),
]:
    fault({"refuse": refusal}, "create")
    error = refused(lambda: insert("refused"), kind)
    assert error.errors[0]["reason"] == reason, error.errors

# Quota and capacity are refused by the operation.
knobs(boots_after=5)
fault({"fail_later": "no_capacity"}, "create")
late = insert("late")
advance(6)
error = refused(lambda: late.result(timeout=60), exceptions.GoogleAPICallError)
assert late.error_code == 503 and "enough resources" in str(error), error
knobs(quota=alive())
late = insert("too-many")
advance(6)
refused(lambda: late.result(timeout=60), exceptions.Forbidden)
codes = [e.code for e in operations.get(**HERE, operation=late.name).error.errors]
assert codes == ["QUOTA_EXCEEDED"] and "too-many" not in listed("")
