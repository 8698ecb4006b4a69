"""``docker/``: no engine runs here, so the files are read as hadolint and Docker Compose would read them."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from raylight.config.run_id import STORAGE_VARIABLE

HADOLINT = Path(sys.executable).with_name("hadolint")
SCHEMA = Path(__file__).with_name("schemas") / "compose.json.gz"


@pytest.fixture
def image(files: Path) -> str:
    """The Dockerfile, with one instruction a line."""
    text = re.sub(r"^#.*\n", "", (files / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ")


@pytest.fixture
def compose(files: Path) -> Any:
    """What compose.yaml says, aliases resolved, variables not."""
    return yaml.safe_load((files / "docker" / "compose.yaml").read_text())


def test_hadolint_finds_nothing(files, run):
    result = run(HADOLINT, files / "docker" / "Dockerfile")
    assert result.stdout == ""
    assert result.returncode == 0


def test_the_image_runs_local_sh_as_a_user(image, files):
    user = [line.split()[1] for line in image.splitlines() if line.startswith("USER ")]
    assert user == ["1000"]
    assert re.search(r"^FROM python:\$\{PYTHON\}-slim$", image, re.MULTILINE)
    assert 'ENTRYPOINT ["local.sh"]' in image
    assert 'CMD ["local.sh", "health"]' in image
    (source,) = re.findall(r"^COPY .*?(\S+) /usr/local/bin/local.sh$", image, re.MULTILINE)
    assert (files / source).exists()  # the build's folder is cluster/


def test_compose_accepts_it(compose):
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(compose)] == []
    compose["services"]["head"]["shm"] = "2gb"
    messages = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(compose)]
    assert any("'shm' does not match any" in message for message in messages)


def test_one_head_and_two_workers_with_a_token_and_shared_memory(compose, files, run):
    head, worker = compose["services"]["head"], compose["services"]["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert worker["depends_on"] == {"head": {"condition": "service_healthy"}}
    assert head["ports"] == ["127.0.0.1:8265:8265"]
    usage = run(files / "local.sh", "help").stdout
    for service in (head, worker):
        assert service["shm_size"] == "2gb"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")  # refused where it is not set
        assert f"local.sh {service['command'][0]} " in usage
    assert head["environment"]["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    context = files / "docker" / head["build"]["context"]
    assert (context / head["build"]["dockerfile"]).samefile(files / "docker" / "Dockerfile")


def test_the_files_of_a_run_outlive_the_container(compose):
    head = compose["services"]["head"]
    folders = tuple(volume.rpartition(":")[2] + "/" for volume in head["volumes"])
    assert head["environment"][STORAGE_VARIABLE].startswith(folders)


def test_the_commands_at_the_top_set_what_it_needs(compose, files):
    text = (files / "docker" / "compose.yaml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", "".join(line for line in text.splitlines() if line[:1] != "#")))
    assert needed == {"RAY_AUTH_TOKEN", "RAYLIGHT_WORK"}
    assert set(re.findall(r"^#   export (\w+)=", text, re.MULTILINE)) == needed
    # A folder that is relative would be so to compose.yaml's, which has no scripts.
    assert compose["services"]["head"]["volumes"][0].startswith("${RAYLIGHT_WORK:?")


def test_what_the_environment_says_of_the_image_reaches_its_build(compose, image):
    arguments = compose["services"]["head"]["build"]["args"]
    assert arguments["TORCH_INDEX"] == "${TORCH_INDEX:-}"
    assert arguments.keys() <= set(re.findall(r"^ARG (\w+)", image, re.MULTILINE))
