"""`resnetd analyse`, `analyses` and `analysis`."""

import json
import threading
from pathlib import Path

from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.analyses import finish_analysis, finish_training


def test_an_analysis_is_submitted_listed_and_shown(service: Service, command: Command) -> None:
    source = finish_training(service.core)
    assert command("analyse", source[:12], "layer-responses", "--set", "images=50") == 0
    job_id = command.out.strip()
    assert f"resnetd analysis {job_id}" in command.err
    assert command("analysis", job_id) == 102
    assert "has no result; it is queued" in command.err
    finish_analysis(service.core)
    assert command("analyses", source) == 0
    assert "layers 3, mean_std 2" in command.out
    assert command("analysis", job_id) == 0
    for text in ("mean std", "layer1.0.conv1", "responses to 360 test images of digits"):
        assert text in command.out
    assert command("analysis", job_id, "--csv", "--table", "numbers") == 0
    assert command.out == "name,value\nlayers,3.0\nmean_std,2.0\n"
    assert command("analysis", job_id, "-o", "json") == 0
    assert json.loads(command.out)["numbers"] == {"layers": 3.0, "mean_std": 2.0}
    assert command("show", job_id, "-o", "json") == 0
    assert json.loads(command.out)["spec"]["analysis"]["images"] == 50
    assert command("ps") == 0
    assert "KIND" in command.out.splitlines()[0]
    assert "layer-responses" in command.out
    assert command("ps", "--kind", "training") == 0
    assert source in command.out
    assert job_id not in command.out


def test_an_interpolation_names_the_checkpoint_where_it_ends(
    service: Service, command: Command
) -> None:
    source, other = finish_training(service.core), finish_training(service.core)
    line = ("analyse", source, "interpolation", "--other")
    assert command(*line, f"{other}:newest", "-o", "json") == 0
    [found] = json.loads(command.out)["spec"]["analysis"]["others"]
    assert found["job"] == other
    assert command("analyse", source, "interpolation") == 2
    assert "others" in command.err


def test_a_figure_waits_for_the_result(service: Service, command: Command) -> None:
    source = finish_training(service.core)
    waiting = threading.Thread(target=_finish_when_submitted, args=(service,))
    waiting.start()
    code = command("analyse", source, "layer-responses", "--figure", "responses.svg")
    waiting.join()
    assert code == 0
    assert "Saved responses.svg" in command.err
    assert "sorted by magnitude" in Path("responses.svg").read_text()


def _finish_when_submitted(service: Service) -> None:
    service.transport.wait_for_stream()  # of the watch, which follows the submission
    finish_analysis(service.core)


def test_a_wrong_analysis_is_refused_with_its_field(service: Service, command: Command) -> None:
    source = finish_training(service.core)
    assert command("analyse", source, "horoscope") == 2
    assert "analysis" in command.err
    assert command("analyse", source, "layer-responses", "--set", "images=0") == 2
    assert "analysis.images" in command.err
    assert command("analyse", source, "layer-responses", "--figure", "responses.gif") == 2
    assert ".svg or .png" in command.err
