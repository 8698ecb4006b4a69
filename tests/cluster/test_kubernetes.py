"""``kuberay/*.yaml`` against the schemas of KubeRay's resources, as strictly as ``kubectl apply --validate`` is."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from raylight.config.flags import LAUNCHER_VARIABLE
from raylight.config.run_id import RUN_ID_VARIABLE, below_run

SCHEMAS = Path(__file__).with_name("schemas")
KINDS = {"RayCluster": "raycluster", "RayJob": "rayjob"}
QUANTITY = r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"
Loaded = Callable[[str], Any]


def strict(schema: Any) -> Any:
    """The schema of a custom resource as JSON Schema: unknown fields are refused, Kubernetes' own words translated."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": QUANTITY} if "pattern" in schema else {})}
    result = {name: strict(part) for name, part in schema.items() if name != "properties"}
    if "properties" in schema:
        result["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    return result


def errors(document: Any) -> list[str]:
    """What Kubernetes would say, each with its place."""
    kind = KINDS[document["kind"]]
    schema = strict(json.loads(gzip.decompress((SCHEMAS / f"{kind}.json.gz").read_bytes())))
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}},
        "required": ["name"],
    }
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


@pytest.fixture
def loaded(files: Path) -> Loaded:
    """``loaded(name)``: the one document of the file."""
    return lambda name: yaml.safe_load((files / "kuberay" / f"{name}.yaml").read_text())


def cluster_of(document: Any) -> Any:
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kubernetes_accepts_it(loaded, name):
    document = loaded(name)
    assert document["apiVersion"] == "ray.io/v1"
    assert errors(document) == []


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(autoscaling=True), "'autoscaling' was unexpected"),
        (lambda spec: spec["authOptions"].update(mode="yes"), "'yes' is not one of"),
        (lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="4"), "'4' is not of type 'integer'"),
        (lambda spec: spec["workerGroupSpecs"][0].pop("template"), "'template' is a required property"),
        (lambda spec: pod(spec).update(gracePeriod=60), "'gracePeriod' was unexpected"),
        (lambda spec: pod(spec)["containers"][0].update(img="x"), "'img' was unexpected"),
        (lambda spec: pod(spec)["containers"][0]["resources"]["limits"].update(cpu="much"), "'much' does not match"),
    ],
)
def test_kubernetes_would_refuse_a_mistake(loaded, name, change, message):
    document = copy.deepcopy(loaded(name))  # aliases of YAML are one object
    change(cluster_of(document))
    assert any(message in error for error in errors(document)), errors(document)


def pod(spec: Any) -> Any:
    return spec["workerGroupSpecs"][0]["template"]["spec"]


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_cluster_wants_a_token_and_grows_by_itself(loaded, name):
    spec = cluster_of(loaded(name))
    (group,) = spec["workerGroupSpecs"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert group["minReplicas"] == 0 < group["maxReplicas"]
    head, worker = spec["headGroupSpec"]["template"]["spec"], pod(spec)
    assert head["containers"][0]["image"] == worker["containers"][0]["image"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # Ray drains a node that is to end for 30 s; Kubernetes must not kill it before
    assert worker["terminationGracePeriodSeconds"] > 30


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_what_is_mounted_is_there(loaded, name):
    spec = cluster_of(loaded(name))
    for part in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        template = part["template"]["spec"]
        volumes = {volume["name"] for volume in template.get("volumes", [])}
        mounts = {mount["name"] for box in template["containers"] for mount in box.get("volumeMounts", [])}
        assert mounts == volumes


def test_a_run_that_failed_goes_on_under_its_id(loaded):
    spec = loaded("rayjob")["spec"]
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert variables == {RUN_ID_VARIABLE: "train-1"}
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_all_files_of_a_run_lie_on_the_volume(loaded, name, monkeypatch):
    (head,) = cluster_of(loaded(name))["headGroupSpec"]["template"]["spec"]["containers"]
    for entry in head["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    monkeypatch.setenv(RUN_ID_VARIABLE, "train-1")
    mounts = tuple(f"{mount['mountPath']}/train-1/" for mount in head["volumeMounts"])
    for path in ("logs", "checkpoints/best"):
        assert str(below_run(path)).startswith(mounts)


def test_a_trainer_of_one_worker_leaves_the_head(loaded):
    spec = loaded("rayjob")["spec"]["rayClusterSpec"]
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": LAUNCHER_VARIABLE, "value": "ray"} in head["env"]
    (worker,) = pod(spec)["containers"]
    assert "env" not in worker  # a trial of Ray Tune trains where it is


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_a_job_that_is_stopped_has_time_to_save(loaded, name):
    (head,) = cluster_of(loaded(name))["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "60"} in head["env"]


def test_all_files_name_one_version_of_ray(files):
    versions: set[str] = set()
    for path in [*files.rglob("*.yaml"), files / "docker" / "Dockerfile"]:
        versions |= set(re.findall(r"(?:rayVersion: \"|rayproject/ray:|RAY=)([\d.]+)", path.read_text()))
    assert versions == {"2.60.0"}
