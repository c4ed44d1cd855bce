# SPDX-License-Identifier: Apache-2.0
"""kubernetes.sh: a JobSet whose pods run the stage with the words it gets."""

import os
import re

import pytest
import yaml

OPTIONS = ("--name=run-1", "--image=registry/diffmem:1")
BUCKET = ("first", "--config=a.py", "--workdir=gs://b/w")


@pytest.fixture
def kubernetes(call, fake, tmp_path):
  """Runs kubernetes.sh; kubectl keeps what it is given."""
  fake(
    tmp_path / "bin" / "kubectl",
    '#!/bin/sh\ncat >applied\necho "$*" >words\nexit $RC\n',
  )
  path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

  def run(*args, rc=0):
    return call("kubernetes", *args, PATH=path, RC=str(rc))

  return run


def container(manifest: dict) -> dict:
  (found,) = pod(manifest)["containers"]
  return found


def pod(manifest: dict) -> dict:
  (job,) = manifest["spec"]["replicatedJobs"]
  return job["template"]["spec"]["template"]["spec"]


def expanded(word: str, variables: dict[str, str]) -> str:
  """What Kubernetes makes of an argument: $$ is $, $(NAME) its value."""
  return re.sub(
    r"\$\$|\$\((\w+)\)",
    lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]),
    word,
  )


def test_each_pod_runs_the_stage_with_its_number(kubernetes, awkward, tmp_path):
  args = (*OPTIONS, "--processes=4", "second", *awkward)
  dry = kubernetes("--dry-run", *args)
  assert (dry.returncode, dry.stderr) == (0, "")
  assert not (tmp_path / "applied").exists()
  manifest = yaml.safe_load(dry.stdout)
  assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert (manifest["kind"], manifest["metadata"]["name"]) == ("JobSet", "run-1")
  (job,) = manifest["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
  assert (spec["completions"], spec["parallelism"]) == (4, 4)
  found = container(manifest)
  assert found["image"] == "registry/diffmem:1"
  assert found["command"] == ["python", "-m", "diffmem.bin.second"]
  variables = {"JOB_COMPLETION_INDEX": "2", "HOME": "wrong"}
  assert [expanded(word, variables) for word in found["args"]] == [
    *awkward,
    "--processes=4",
    "--process=2",
    # <jobset>-<job>-<index of the job>-<index of the pod>.<jobset>
    f"--coordinator=run-1-{job['name']}-0-0.run-1:8476",
  ]
  done = kubernetes(*args)
  assert done.returncode == 0
  assert (tmp_path / "applied").read_text() == dry.stdout
  assert (tmp_path / "words").read_text() == "apply -f -\n"
  assert "kubectl delete jobset run-1" in done.stderr


def test_one_process_needs_no_coordinator(kubernetes):
  manifest = yaml.safe_load(kubernetes(*OPTIONS, "--dry-run", *BUCKET).stdout)
  assert container(manifest)["args"] == list(BUCKET[1:])
  assert manifest["spec"]["failurePolicy"] == {"maxRestarts": 3}
  assert set(container(manifest)) == {"name", "image", "command", "args"}
  assert set(pod(manifest)) == {"restartPolicy", "containers"}


def test_what_a_pod_gets_and_where(kubernetes):
  done = kubernetes(
    *OPTIONS,
    "--resource=nvidia.com/gpu=8",
    "--resource=memory=64Gi",
    "--node=cloud/accelerator=h100",
    "--node=reserved=true",
    "--claim=my-disk:/data",
    "--account=reader",
    "--namespace=lab",
    "--restarts=0",
    *("--dry-run", "first", "--workdir=/data/runs/x"),
  )
  manifest = yaml.safe_load(done.stdout)
  assert manifest["metadata"] == {"name": "run-1", "namespace": "lab"}
  assert manifest["spec"]["failurePolicy"] == {"maxRestarts": 0}
  assert container(manifest)["resources"] == {
    "limits": {"nvidia.com/gpu": "8", "memory": "64Gi"}
  }
  assert pod(manifest)["nodeSelector"] == {
    "cloud/accelerator": "h100",
    "reserved": "true",
  }
  assert pod(manifest)["serviceAccountName"] == "reader"
  (volume,) = pod(manifest)["volumes"]
  (mount,) = container(manifest)["volumeMounts"]
  assert volume["persistentVolumeClaim"] == {"claimName": "my-disk"}
  assert mount == {"name": volume["name"], "mountPath": "/data"}


def test_the_status_is_that_of_kubectl(kubernetes):
  done = kubernetes(*OPTIONS, *BUCKET, rc=3)
  assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((OPTIONS[0], *BUCKET), "--image is missing"),
    ((OPTIONS[1], *BUCKET), "--name='': expected at most 40 small letters"),
    ((OPTIONS[1], "--name=My", *BUCKET), "--name='My': expected at most 40"),
    ((*OPTIONS, "--processes=0", *BUCKET), "--processes=0: expected a whole"),
    ((*OPTIONS, "--claim=disk", *BUCKET), "--claim=disk: expected CLAIM:/PATH"),
    ((*OPTIONS, "--resource=gpu", *BUCKET), "unknown option --resource=gpu"),
    ((*OPTIONS, *BUCKET, "a\x1bb"), "'a\x1bb': a control character"),
    (
      (*OPTIONS, "first", "--workdir=runs/x"),
      "--workdir='runs/x': expected gs://BUCKET/DIR or a folder of --claim",
    ),
    (
      (*OPTIONS, "--claim=d:/data", "first", "--workdir=/database/x"),
      "--workdir='/database/x': expected gs://BUCKET/DIR",
    ),
  ],
)
def test_bad_options_are_refused(kubernetes, tmp_path, args, message):
  done = kubernetes(*args)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr.startswith(f"kubernetes.sh: {message}")
  assert done.stderr.count("\n") == 1
  assert not (tmp_path / "applied").exists()
