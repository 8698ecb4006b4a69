"""``aws.yaml`` and ``gcp.yaml``: Ray's own check, and the clouds' own words for a machine."""

from __future__ import annotations

import copy
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

SCHEMAS = Path(__file__).with_name("schemas")
CLOUDS = ["aws", "gcp"]


@pytest.fixture
def config(files: Path) -> Any:
    """``config(cloud)``: what is in the file, with Ray's defaults."""
    return lambda cloud: prepare_config(yaml.safe_load((files / f"{cloud}.yaml").read_text()))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_accepts_it(config, cloud):
    validate_config(config(cloud))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_would_refuse_a_field_that_it_does_not_know(config, cloud):
    changed = config(cloud)
    changed["idle_timeout"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(changed)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_head_only_drives_and_workers_come_and_go(config, cloud):
    settings = config(cloud)
    head = settings["available_node_types"][settings["head_node_type"]]
    worker = settings["available_node_types"]["spot_gpu"]
    assert head["resources"] == {"CPU": 0}
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert worker["min_workers"] == 0 < worker["max_workers"] <= settings["max_workers"]
    assert settings["idle_timeout_minutes"] == 10


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_process_wants_the_token(config, cloud):
    settings = config(cloud)
    assert "--env RAY_AUTH_MODE=token" in settings["docker"]["run_options"]
    assert settings["file_mounts"]["/raylight/auth_token"].endswith("/.ray/auth_token")
    (start,) = [line for line in settings["head_start_ray_commands"] if line.startswith("ray start")]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_job_that_is_stopped_has_time_to_save(config, cloud):
    assert "--env RAY_JOB_STOP_WAIT_TIME_S=60" in config(cloud)["docker"]["run_options"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_one_line_names_raylight(files, cloud):
    lines = [line for line in (files / f"{cloud}.yaml").read_text().splitlines() if "pip install --no-input" in line]
    assert [line.strip().split(" # ")[0] for line in lines if " raylight" in line] == [
        "- pip install --no-input raylight"
    ]


@pytest.fixture
def aws_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An account of moto, which speaks as AWS does, for a user whose keys lie in ``tmp_path``."""
    from moto import mock_aws

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-west-2",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".ssh").mkdir()
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.mark.slow
def test_ray_starts_both_kinds_of_machines_with_the_api_of_aws(config, aws_account, monkeypatch):
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setattr(aws_config.time, "sleep", lambda seconds: None)  # 15 s for a new role to be known everywhere
    settings = AWSNodeProvider.bootstrap_config(config("aws"))
    provider = AWSNodeProvider(settings["provider"], settings["cluster_name"])
    for name, kind in settings["available_node_types"].items():
        tags = {"ray-node-kind": "head" if name == "head" else "worker", "ray-user-node-type": name}
        # botocore refuses what EC2 has no word for
        provider.create_node(copy.deepcopy(kind["node_config"]), tags, 1)
    (head,) = provider.non_terminated_nodes({"ray-node-kind": "head"})
    (worker,) = provider.non_terminated_nodes({"ray-node-kind": "worker"})
    machines = {name: provider.ec2.Instance(name) for name in (head, worker)}
    assert machines[head].instance_lifecycle is None
    assert machines[worker].instance_lifecycle == "spot"
    assert machines[worker].instance_type == "g6.12xlarge"
    assert os.listdir(os.path.join(os.environ["HOME"], ".ssh"))  # the key pair that Ray makes


def gcp_machine() -> jsonschema.Draft202012Validator:
    """What Compute Engine takes as an instance: the schema of google-api-python-client's discovery document."""
    return jsonschema.Draft202012Validator(json.loads(gzip.decompress((SCHEMAS / "gcp_instance.json.gz").read_bytes())))


def test_compute_engine_has_a_word_for_every_field_of_its_machines(config):
    for name, kind in config("gcp")["available_node_types"].items():
        assert [error.message for error in gcp_machine().iter_errors(kind["node_config"])] == [], name


def test_compute_engine_would_refuse_another(config):
    machine = config("gcp")["available_node_types"]["spot_gpu"]["node_config"]
    machine["scheduling"]["provisioningModel"] = "CHEAP"
    machine["scheduling"]["spot"] = True
    messages = " ".join(error.message for error in gcp_machine().iter_errors(machine))
    assert "'CHEAP' is not one of" in messages
    assert "'spot' was unexpected" in messages
