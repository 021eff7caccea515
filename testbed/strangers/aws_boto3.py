"""EC2 by boto3."""

import base64

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from control import URL, TOKEN, advance, alive, fault, knobs, refused, truth


def client(key=TOKEN, region="eu-west-1"):
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=60, read_timeout=60)
    return boto3.client(
        "ec2", endpoint_url=URL, region_name=region, aws_access_key_id=key, aws_secret_access_key="whatever", config=once
    )


def code(act):
    return refused(act, ClientError).response["Error"]["Code"]


ec2 = client()


def run(token, **rest):
    tags = [{"Key": "pool", "Value": "p <&> 1"}, {"Key": "slot", "Value": token}]
    rest = {"InstanceType": "t3.micro", **rest}
    return ec2.run_instances(
        ImageId="ami-1", MinCount=1, MaxCount=1, ClientToken=token, UserData="#!/bin/sh\necho hello\n",
        MetadataOptions={"HttpTokens": "required"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}], **rest,
    )["Instances"][0]


# One token, one instance, until something else is asked for with it.
knobs(boots_after=30, deleted_after=30)
first, again = run("0"), run("0")
assert first["InstanceId"] == again["InstanceId"] and first["State"]["Name"] == "pending", (first, again)
assert alive() == 1
assert code(lambda: run("0", InstanceType="t3.large")) == "IdempotentParameterMismatch"
assert truth()["vms"][0]["user_data"] == "#!/bin/sh\necho hello\n"

# What it says of itself, before it runs and after.
def described(identity):
    return ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]

assert "PublicIpAddress" not in described(first["InstanceId"])
advance(31)
seen = described(first["InstanceId"])
assert seen["State"] == {"Code": 16, "Name": "running"} and seen["PublicIpAddress"] == truth()["vms"][0]["address"], seen
assert {"Key": "pool", "Value": "p <&> 1"} in seen["Tags"] and seen["ClientToken"] == "0"
assert seen["Placement"]["AvailabilityZone"] == "eu-west-1a" and seen["LaunchTime"].tzinfo is not None

# A lost reply: the same token finds out.
fault("lose_reply", "create")
refused(lambda: run("lost"), (ConnectionClosedError, HTTPClientError))
assert alive() == 2
run("lost")
assert alive() == 2

# Filters and pages.
for slot in range(1, 9):
    run(str(slot))
run("spot", InstanceMarketOptions={"MarketType": "spot"})
mine = [{"Name": "tag:pool", "Values": ["p*"]}, {"Name": "instance-state-name", "Values": ["pending", "running"]}]
pages = list(ec2.get_paginator("describe_instances").paginate(Filters=mine, PaginationConfig={"PageSize": 5}))
found = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
assert len(pages) == 3 and len(found) == len(set(found)) == 11, pages
assert not ec2.describe_instances(Filters=[{"Name": "tag:pool", "Values": ["other"]}])["Reservations"]
by_token = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["3"]}])["Reservations"]
assert [tag["Value"] for tag in by_token[0]["Instances"][0]["Tags"] if tag["Key"] == "slot"] == ["3"]
assert code(lambda: ec2.describe_instances(Filters=[{"Name": "colour", "Values": ["red"]}])) == "InvalidParameterValue"
assert not client(region="us-east-1").describe_instances()["Reservations"], "another region"

# Termination: seen for a while, then forgotten, and no error while it is seen.
gone = ec2.terminate_instances(InstanceIds=[first["InstanceId"], found[1]])["TerminatingInstances"]
assert [(i["PreviousState"]["Name"], i["CurrentState"]["Name"]) for i in gone] == [("running", "shutting-down"), ("pending", "shutting-down")] or [
    (i["PreviousState"]["Name"], i["CurrentState"]["Name"]) for i in gone
] == [("running", "shutting-down")] * 2, gone
advance(31)
assert described(first["InstanceId"])["State"]["Name"] == "terminated"
again = ec2.terminate_instances(InstanceIds=[first["InstanceId"]])["TerminatingInstances"][0]
assert again["CurrentState"]["Name"] == "terminated"
assert run("0")["InstanceId"] == first["InstanceId"], "the token still means the terminated one"
advance(3601)
assert code(lambda: described(first["InstanceId"])) == "InvalidInstanceID.NotFound"

# Refusals.
assert code(lambda: ec2.terminate_instances(InstanceIds=["i-0123456789abcdef0"])) == "InvalidInstanceID.NotFound"
assert code(lambda: ec2.terminate_instances(InstanceIds=["nonsense"])) == "InvalidInstanceID.Malformed"
assert code(lambda: client("stranger").describe_instances()) == "AuthFailure"
for refusal, expected in [
    ("no_capacity", "InsufficientInstanceCapacity"), ({"throttled": 3}, "RequestLimitExceeded"), ("unavailable", "Unavailable"),
]:
    fault({"refuse": refusal}, "create")
    assert code(lambda: run("refused")) == expected
knobs(quota=alive())
assert code(lambda: run("refused")) == "VcpuLimitExceeded"
knobs(quota=None, boots_after=1)

# A capacity error that comes late.
fault({"fail_later": "no_capacity"}, "create")
failed = run("late")
assert failed["State"]["Name"] == "pending"
advance(2)
failed = described(failed["InstanceId"])
assert failed["State"]["Name"] == "terminated" and failed["StateReason"]["Code"] == "Server.InsufficientInstanceCapacity", failed
assert truth("pool,slot")["twins"] == []
