"""Bad input: the short run of tests/fuzz_input.py, and docs/openapi.yaml, which is what the server does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import fuzz_input
from live import ROOT, Server
from mutants import Mutant
from signal_server import errors, messages

DESCRIPTION: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
SCHEMAS = DESCRIPTION["components"]["schemas"]
POST = DESCRIPTION["paths"]["/"]["post"]


@pytest.mark.parametrize(("driver", "cases"), [("callbacks", 5000), ("wsgi", 1500)], indirect=["driver"])
def test_bad_input_is_refused_and_nothing_else_happens(driver: str, cases: int) -> None:
    seen = fuzz_input.fuzz(cases, seed=20261127, driver=driver)
    assert not seen.wrong, fuzz_input.report(seen)
    assert seen.ran == cases
    assert fuzz_input.growth_mb(seen) < 8, seen.memory_mb
    assert seen.peak_mb - seen.memory_mb[0] < 32  # less than the largest bomb
    assert seen.statuses.keys() == {200, 298, 299, 400, 403, 413, 415, 499}


MESSAGES = "signal_server/messages.py"
LENIENT = {
    "a key twice": Mutant(file=MESSAGES, old="if len(values) != len(pairs):", new="if False:"),
    "too deep": Mutant(file=MESSAGES, old="    except RecursionError:", new="    except ZeroDivisionError:"),
    "a lone surrogate": Mutant(file=MESSAGES, old="        _refuse_surrogates(json", new="        (json"),
    "a long name": Mutant(
        file=MESSAGES, old="MAX_NAME_LENGTH: Final = 256", new="MAX_NAME_LENGTH: Final = 257"
    ),
}


@pytest.mark.parametrize("name", ["too deep", "a lone surrogate"])
def test_a_lenient_server_is_noticed(name: str) -> None:
    with LENIENT[name].planted():
        assert fuzz_input.fuzz(600, seed=20261127).wrong


# --- the description ---------------------------------------------------------------------------------------


def test_the_description_has_every_parameter_and_every_reply() -> None:
    requests = [SCHEMAS[each["$ref"].rpartition("/")[2]] for each in SCHEMAS["Request"]["oneOf"]]
    assert {name for each in requests for name in each["properties"]} == set(messages.PARAMETERS)
    told = set(POST["responses"]) | set(DESCRIPTION["paths"]["/key"]["get"]["responses"])
    real = {each.status[:3] for each in errors.SignalError.__subclasses__()}
    assert told >= real - {"405"}  # which no method that is described gets
    types = {
        each["properties"]["TYPE"].get("const")
        for each in SCHEMAS.values()
        if "TYPE" in each.get("properties", {})
    }
    assert types >= {messages.DEMOTE, messages.ANSWER, messages.DELIVERED, messages.NO_PEER, messages.LEFT}


CONFIGURATION = """
# 499 refuses, too.
[checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 405, 408, 413, 415, 431, 499, 503]
"""


@pytest.mark.parametrize(
    ("driver", "media"),
    [("callbacks", "as it is"), ("callbacks", "without text/plain"), ("wsgi", "without text/plain")],
    indirect=["driver"],
)
def test_the_server_does_what_is_described(driver: str, media: str, tmp_path: Path) -> None:
    """What stands in a text/plain body no schema can say, so there a good one cannot be made of it."""
    described = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    checks = ["--exclude-checks", "positive_data_acceptance"]
    if media != "as it is":
        del described["paths"]["/"]["post"]["requestBody"]["content"]["text/plain"]
        checks = []
    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(described))
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with Server(REQUEST_TIMEOUT=0.02, SIGNATURES="optional", LOG="off") as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.yaml", "--url", server.url]
        command += ["--max-examples", "20", "--seed", "20261127", *checks]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in server.log
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
