"""The manifests in `deploy/` agree with the image, the settings and each other, and are narrow.

Whether they are what Kubernetes takes, its own schemas say: `uvx kubernetes-validate --strict`.
"""

import re

import pytest
import yaml
from uvicorn.config import Config

from kernel.settings import ROOT, Settings
from kernel.tests.test_deploy import SERVICES, read
from kernel.tests.test_image import OPTIONS

pytestmark = pytest.mark.house
DOCUMENTS = [
    document
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
KINDS = {each["kind"]: each for each in DOCUMENTS}
DEPLOYMENT, JOB = KINDS["Deployment"]["spec"], KINDS["Job"]["spec"]
PODS = {"service": DEPLOYMENT["template"]["spec"], "migration": JOB["template"]["spec"]}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}
SERVICE = CONTAINERS["service"]
(USER,) = map(int, re.findall(r"^USER (\d+)$", read("Dockerfile"), re.MULTILINE))
(PORT,) = map(int, re.findall(r"^EXPOSE (\d+)$", read("Dockerfile"), re.MULTILINE))
SMALLEST = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
every_pod = pytest.mark.parametrize("name", PODS)
PRODUCTION = Settings(
    _env_file=None,
    env="prod",
    database_url="postgresql://127.0.0.1/x",
    jwt_secret="0f1e2d3c4b5a6978" * 4,
)


def test_there_is_one_manifest_of_each_kind():
    assert sorted(KINDS) == [
        *("ConfigMap", "Deployment", "Job", "PodDisruptionBudget", "Service"),
    ]
    assert len(DOCUMENTS) == len(KINDS)


@every_pod
def test_a_pod_has_no_rights(name):
    pod = PODS[name]
    assert len(pod["containers"]) == 1
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert CONTAINERS[name]["securityContext"] == SMALLEST
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@every_pod
def test_a_pod_has_what_it_needs_and_no_more_memory_than_its_limit(name):
    resources = CONTAINERS[name]["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}
    mounted = {mount["name"] for mount in CONTAINERS[name]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in PODS[name]["volumes"]}


@every_pod
def test_each_variable_is_a_setting_or_uvicorns(name):
    variables = {each["name"]: each for each in CONTAINERS[name]["env"]}
    assert {"APP_DATABASE_URL", "APP_JWT_SECRET"} <= variables.keys()
    assert {each.removeprefix("APP_").lower() for each in variables} <= {*Settings.model_fields}
    for each in variables.values():  # no value of a secret is in the manifests
        assert each.keys() == {"name", "valueFrom"}
        assert each["valueFrom"]["secretKeyRef"]["name"] == "julienne"


def test_whose_forwarded_addresses_are_believed_is_said_and_is_not_everybody(monkeypatch):
    for variables in (KINDS["ConfigMap"]["data"], SERVICES["service"]["environment"]):
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", variables["FORWARDED_ALLOW_IPS"])
        trusted = Config("service:app").forwarded_allow_ips
        assert trusted == variables["FORWARDED_ALLOW_IPS"] != "*"
    assert SERVICE["envFrom"] == [{"configMapRef": {"name": "julienne"}}]


def test_each_probe_asks_its_own_endpoint():
    asked = {
        name: SERVICE[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert asked == {
        "startup": {"path": "/livez", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    assert SERVICE["ports"] == [{"name": "http", "containerPort": PORT}]
    assert KINDS["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_a_pod_has_more_time_to_end_than_it_needs():
    needed = PRODUCTION.drain_seconds + int(OPTIONS["--timeout-graceful-shutdown"])
    compose = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    for allowed in (PODS["service"]["terminationGracePeriodSeconds"], compose):
        assert allowed >= needed + 5
    # Long enough for the readiness probe to fail, or for HAProxy's check.
    readiness = SERVICE["readinessProbe"]
    assert PRODUCTION.drain_seconds > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert "lifecycle" not in SERVICE


def test_a_deployment_is_never_without_a_pod_that_serves():
    labels = DEPLOYMENT["selector"]["matchLabels"]
    assert DEPLOYMENT["replicas"] >= 2
    assert DEPLOYMENT["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert DEPLOYMENT["minReadySeconds"] >= 2
    assert DEPLOYMENT["template"]["metadata"]["labels"] == labels
    assert KINDS["Service"]["spec"]["selector"] == labels
    assert KINDS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert 1 <= KINDS["PodDisruptionBudget"]["spec"]["minAvailable"] < DEPLOYMENT["replicas"]
    for spread in PODS["service"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    assert JOB["template"]["metadata"]["labels"] != labels  # or requests would go to it


def test_the_migration_is_of_the_version_that_follows_it():
    assert CONTAINERS["migration"]["image"] == SERVICE["image"]
    assert CONTAINERS["migration"]["command"] == SERVICES["migrate"]["command"]
    assert KINDS["Job"]["metadata"]["name"].endswith("-VERSION")
    assert SERVICE["image"].endswith(":VERSION")
    assert PODS["migration"]["restartPolicy"] == "Never"
