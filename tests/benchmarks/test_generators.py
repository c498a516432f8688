"""What load generators print is read, or named when it cannot be."""

from __future__ import annotations

import json

import pytest

from benchmarks.generators import Exchanges, MeasurementError, Transfer, read_exchanges, read_transfer

FIGURES = {
    "done": 1000,
    "failed": 1,
    "lost": 2,
    "seconds": 0.5,
    "p50_us": 100.0,
    "p99_us": 900.5,
    "max_us": 2000.0,
}


def test_figures_are_found_among_what_wrk_says_itself() -> None:
    output = f"Running 1s test @ http://10.96.0.10/\n  1 threads and 64 connections\n{json.dumps(FIGURES)}\n"
    assert read_exchanges(output) == Exchanges(1000, 0.5, 1, 2, 100.0, 900.5, 2000.0)


@pytest.mark.parametrize("output", ["", "unable to connect to 10.96.0.10:80\n", '{"done":', '{"done": 1}'])
def test_output_without_figures_is_no_measurement(output: str) -> None:
    with pytest.raises(MeasurementError):
        read_exchanges(output)


def test_a_transfer_is_what_the_receiver_saw() -> None:
    end = {"sum_sent": {"bytes": 12, "seconds": 1.0}, "sum_received": {"bytes": 10, "seconds": 2.0}}
    assert read_transfer(json.dumps({"end": end})) == Transfer(10, 2.0)


def test_what_iperf3_complains_of_is_passed_on() -> None:
    with pytest.raises(MeasurementError, match="unable to connect to server"):
        read_transfer(json.dumps({"end": {}, "error": "unable to connect to server"}))


@pytest.mark.parametrize("output", ["", "iperf3: error", "{}", '{"end": {"sum_received": {}}}', "[]"])
def test_what_is_no_report_is_no_measurement(output: str) -> None:
    with pytest.raises(MeasurementError):
        read_transfer(output)
