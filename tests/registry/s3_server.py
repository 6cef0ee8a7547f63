"""A real S3 protocol server for the tests: moto's, in a process of its own on a free port, with one bucket and one user
whose keys it checks.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import boto3
from botocore.exceptions import BotoCoreError
from postgres_server import free_port

BUCKET = "models"
START_SECONDS = 60
ALL = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
# moto answers so many calls to whoever asks: those that make the user. It checks every one from then on.
SET_UP_CALLS = 4


@dataclass
class S3Server:
    """A running server. environment: the variables by which its user reaches it."""

    endpoint: str
    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]
    made: Iterator[int] = field(default_factory=count)

    def url(self) -> str:
        """An empty place in the bucket."""
        return f"s3://{BUCKET}/{next(self.made)}"


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server with the bucket and its user."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": str(SET_UP_CALLS)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        yield S3Server(endpoint, process, set_up(process, endpoint))
    finally:
        process.kill()
        process.wait(30)


def set_up(process: "subprocess.Popen[bytes]", endpoint: str) -> dict[str, str]:
    """Waits for the server, and makes the bucket and the user."""
    nobody = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nobody", "region_name": "us-east-1"}
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            boto3.client("s3", endpoint_url=endpoint, **nobody).create_bucket(Bucket=BUCKET)
            break
        except BotoCoreError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    iam = boto3.client("iam", endpoint_url=endpoint, **nobody)
    iam.create_user(UserName="mlray")
    iam.put_user_policy(UserName="mlray", PolicyName="all", PolicyDocument=ALL)
    key = iam.create_access_key(UserName="mlray")["AccessKey"]
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
