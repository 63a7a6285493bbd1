"""Fixtures of the tests of deploy/; README.md says how to run them."""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# The processes of the end-to-end tests: Process, eventually …
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true",
                     help="write golden/ anew; look at the difference before you commit it")


@pytest.fixture(scope="session")
def update_golden(request):
    return request.config.getoption("--update-golden")
