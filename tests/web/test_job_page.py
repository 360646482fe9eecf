"""One job in a browser: curves that grow, what happened, the log, downloads, commands."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from service.specs.protocol import LogLine, MetricPoint, Progress
from service.states import LogLevel, Reason
from tests.support.api import Api
from tests.support.browser import assert_accessible
from tests.support.core import cancelled, job_id_of, make_point, note
from tests.support.onnx_networks import finish_with_network, make_color_network, make_picture
from tests.support.predictions import finish_with_predictions

pytestmark = pytest.mark.browser


def _report(api: Api, attempt_id: str, sequence: int, *, iterations: range) -> None:
    core = api.core
    points = [
        MetricPoint(
            series=series,
            iteration=iteration,
            value=100.0 / iteration,
            seconds=0.1 * iteration,
            at=core.clock.now,
        )
        for iteration in iterations
        for series in ("train/error", "test/error", "train/loss", "gradient_norm")
    ]
    progress = Progress(iteration=iterations[-1], iterations=600, images_per_second=900.0)
    core.report(attempt_id, sequence, metrics=points, progress=progress)


def test_curves_grow_while_the_job_trains(signed_in: Page, api: Api) -> None:
    running = api.core.run(name="growing")
    _report(api, running.attempt_id, 2, iterations=range(5, 55, 5))
    signed_in.get_by_role("link", name="growing").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("growing")
    error = signed_in.get_by_role("figure", name="Error, %")
    expect(error.get_by_role("img")).to_have_attribute("aria-label", re.compile("test 2$"))
    _report(api, running.attempt_id, 3, iterations=range(55, 105, 5))
    expect(error.get_by_role("img")).to_have_attribute("aria-label", re.compile("test 1$"))
    # A series that no chart names has one of its own.
    expect(signed_in.get_by_role("figure", name="gradient_norm")).to_be_visible()
    error.get_by_text("Values").click()
    expect(error.get_by_role("row")).to_have_count(21)
    assert_accessible(signed_in)


def test_the_bottleneck_is_noted_and_drawn(signed_in: Page, api: Api) -> None:
    running = api.core.run()
    values = {
        "train/loss": 1.0,
        "step/load_seconds": 0.3,
        "step/compute_seconds": 0.1,
        "step/synchronize_seconds": 0.0,
        "machine/cpu_percent": 180.0,
        "machine/memory_bytes": 3.0 * 2**30,
    }
    points = [
        MetricPoint(
            series=series, iteration=iteration, value=value, seconds=1.0, at=api.core.clock.now
        )
        for series, value in values.items()
        for iteration in (5, 10)
    ]
    api.core.report(running.attempt_id, 2, metrics=points)
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    expect(signed_in.get_by_text("Data loading takes 75 % of each step")).to_be_visible()
    section = signed_in.get_by_role("region", name="Speed and machine")
    expect(section.get_by_role("figure")).to_have_count(3)
    for title, newest in (
        ("Time of a step, ms", "computation 100, data loading 300"),
        ("CPU, %", "all workers 180"),
        ("Memory, GiB", "all workers 3"),
    ):
        plot = section.get_by_role("figure", name=title).get_by_role("img")
        expect(plot).to_have_attribute("aria-label", re.compile(f"{re.escape(newest)}$"))
    curves = signed_in.get_by_role("region", name="Curves")
    expect(curves.get_by_role("figure")).to_have_count(1)
    section.get_by_text("Values").first.click()
    expect(section.get_by_role("row")).to_have_count(3)
    assert_accessible(signed_in)


def test_a_range_is_zoomed_and_stays_in_the_address(signed_in: Page, api: Api) -> None:
    running = api.core.run()
    _report(api, running.attempt_id, 2, iterations=range(5, 505, 5))
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    plot = signed_in.get_by_role("figure", name="Error, %").locator(".u-over")
    # `hover` waits until the page has its final layout.
    plot.hover()
    box = plot.bounding_box()
    assert box is not None
    plot.hover(position={"x": box["width"] * 0.25, "y": 20})
    signed_in.mouse.down()
    plot.hover(position={"x": box["width"] * 0.5, "y": 20})
    signed_in.mouse.up()
    expect(signed_in).to_have_url(re.compile(r"from=1\d\d.*to=2\d\d"))
    signed_in.reload()
    signed_in.get_by_role("button", name="Show everything").click()
    expect(signed_in).not_to_have_url(re.compile("from="))
    signed_in.get_by_role("figure", name="Loss").get_by_role("img").press("+")
    expect(signed_in).to_have_url(re.compile(r"from=1\d\d.*to=3\d\d"))
    signed_in.get_by_role("figure", name="Loss").get_by_role("img").press("0")
    expect(signed_in).not_to_have_url(re.compile("from="))


def test_a_continued_run_has_the_curve_of_its_source_up_to_the_checkpoint(
    signed_in: Page, api: Api
) -> None:
    recipe = {"name": "quick", "iterations": 600}
    source = api.core.run(name="source", recipe=recipe)
    _report(api, source.attempt_id, 2, iterations=range(5, 55, 5))
    api.checkpoint(source, 3, note(30, test_error=7.5))
    api.core.finish(source.attempt_id)
    api.core.release(source)
    start = {"job": job_id_of(source)}
    running = api.core.run(name="continued", recipe=recipe, start_from=start)
    _report(api, running.attempt_id, 2, iterations=range(35, 105, 5))
    api.checkpoint(running, 3, note(100, test_error=1.0))
    child = api.core.submit(
        name="adapted", start_from={"job": job_id_of(running), "mode": "weights"}
    )
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    error = signed_in.get_by_role("figure", name="Error, %")
    inherited = "test of source to 30"
    # The source went on to 2 %: after the checkpoint its curve is not that of this job.
    plot = error.get_by_role("img")
    expect(plot).to_have_attribute("aria-label", re.compile(rf"{inherited} 3\.33.*test 1$"))
    expect(error.get_by_role("listitem").filter(has_text=inherited)).to_be_visible()
    error.get_by_text("Values").click()
    expect(error.get_by_role("columnheader", name=inherited)).to_be_visible()
    expect(error.get_by_role("row")).to_have_count(21)
    tree = signed_in.get_by_role("region", name="Tree of jobs")
    expect(tree.get_by_role("listitem")).to_contain_text(
        ["source", "continuedrunningcontinues, from iteration 30", "adapted"]
    )
    expect(tree.locator("[aria-current]")).to_contain_text("continued")
    assert_accessible(signed_in)
    tree.get_by_role("link", name="adapted").click()
    expect(signed_in).to_have_url(f"{api.url}/jobs/{child}")
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("adapted")
    expect(tree.get_by_role("listitem")).to_have_count(3)


def test_attempts_and_classes_are_listed(signed_in: Page, api: Api) -> None:
    first = api.core.run()
    api.core.end(first, Reason.WORKER_DIED)
    api.core.release(first)
    api.core.retry()
    signed_in.goto(f"{api.url}/jobs/{job_id_of(first)}")
    signed_in.get_by_text("2 attempts").click()
    attempts = signed_in.get_by_role("region", name="Attempts")
    expect(attempts.get_by_role("row", name="1 ended")).to_contain_text("worker-died")
    signed_in.get_by_role("heading", name="Classes").click()
    classes = signed_in.get_by_role("list", name="Classes").get_by_role("listitem")
    expect(classes).to_have_text([str(digit) for digit in range(10)])
    assert_accessible(signed_in)


def test_the_log_is_searched(signed_in: Page, api: Api) -> None:
    running = api.core.run()
    lines = [
        LogLine(at=api.core.clock.now, level=level, message=message)
        for level, message in (
            (LogLevel.INFO, "training started"),
            (LogLevel.WARNING, "a step was slow"),
            (LogLevel.INFO, "evaluated"),
        )
    ]
    api.core.report(running.attempt_id, 2, logs=lines)
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    log = signed_in.get_by_role("region", name="Log lines")
    expect(log).to_contain_text("training started")
    signed_in.get_by_label("Only warnings and errors").check()
    expect(log).not_to_contain_text("training started")
    expect(log).to_contain_text("warning: a step was slow")
    signed_in.get_by_label("Search the log").fill("nothing like it")
    expect(log).to_have_text("No lines.")


def test_a_checkpoint_is_downloaded_with_the_cookie(signed_in: Page, api: Api) -> None:
    running = api.core.run()
    api.checkpoint(running, 2, note(20, test_error=7.5))
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    row = signed_in.get_by_role("region", name="Checkpoints").get_by_role("row", name="20 best")
    expect(row).to_contain_text("7.50 %")
    with signed_in.expect_download() as download:
        row.get_by_role("link", name="safetensors").click()
    assert download.value.path().read_bytes() == b"weights of iteration 20"


def test_commands_follow_the_state(signed_in: Page, api: Api) -> None:
    job_id = api.core.submit(name="waits")
    signed_in.goto(f"{api.url}/jobs/{job_id}")
    signed_in.get_by_role("button", name="Hold").click()
    signed_in.get_by_role("button", name="Release").click()
    expect(signed_in.get_by_role("button", name="Hold")).to_be_visible()
    signed_in.once("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Cancel").click()
    expect(signed_in.get_by_role("button", name="Cancel")).to_be_hidden()
    assert api.core.job(job_id).state == "cancelled"
    signed_in.get_by_text("events").click()
    expect(signed_in.get_by_text("queued → cancelled")).to_be_visible()


def test_a_finished_job_is_deleted_after_a_question(signed_in: Page, api: Api) -> None:
    signed_in.goto(f"{api.url}/jobs/{cancelled(api.core, name='unwanted')}")
    signed_in.once("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Delete").click()
    expect(signed_in.get_by_text("No jobs yet.")).to_be_visible()


def test_name_tags_note_and_star_are_edited(signed_in: Page, api: Api, errors: list[str]) -> None:
    job_id = cancelled(api.core, name="old name")
    signed_in.goto(f"{api.url}/jobs/{job_id}")
    signed_in.get_by_role("button", name="Star").click()
    expect(signed_in.get_by_role("button", name="Starred")).to_be_visible()
    signed_in.get_by_role("button", name="Edit name, tags and note").click()
    signed_in.get_by_label("Tags").fill("not!a!tag")
    signed_in.get_by_role("button", name="Save").click()
    expect(signed_in.get_by_label("Tags")).to_have_attribute("aria-invalid", "true")
    # Chromium logs each response that is an error.
    errors.clear()
    signed_in.get_by_label("Name").fill("new name")
    signed_in.get_by_label("Tags").fill("course, week-1")
    signed_in.get_by_label("Note").fill("for the report")
    assert_accessible(signed_in)
    signed_in.get_by_role("button", name="Save").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("new name")
    expect(signed_in.get_by_text("for the report")).to_be_visible()
    expect(signed_in.get_by_text("course, week-1")).to_be_visible()
    job = api.core.job(job_id)
    assert (job.starred, job.note) == (True, "for the report")


def test_what_one_types_stays_while_the_job_changes(signed_in: Page, api: Api) -> None:
    job_id = cancelled(api.core, name="old name")
    signed_in.goto(f"{api.url}/jobs/{job_id}")
    signed_in.get_by_role("button", name="Edit name, tags and note").click()
    typed = {"Name": "new name", "Tags": "course", "Note": "half a sent"}
    for label, text in typed.items():
        signed_in.get_by_label(label).fill(text)
    signed_in.get_by_role("button", name="Star").click()
    expect(signed_in.get_by_role("button", name="Starred")).to_be_visible()
    for label, text in typed.items():
        expect(signed_in.get_by_label(label)).to_have_value(text)


def test_a_page_reads_over_one_connection_that_a_hidden_tab_closes(
    signed_in: Page, api: Api
) -> None:
    running = api.core.run(name="followed")
    line = LogLine(at=api.core.clock.now, level=LogLevel.INFO, message="the first line")
    api.core.report(running.attempt_id, 2, logs=[line])
    opened: list[str] = []
    ended: list[str] = []
    signed_in.on("request", lambda request: opened.append(request.url))
    signed_in.on("requestfailed", lambda request: ended.append(request.url))
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("followed")
    # The log is the last part of the page, so that its lines come over the last connection.
    expect(signed_in.get_by_text("the first line")).to_be_visible()
    opened.clear()
    _report(api, running.attempt_id, 3, iterations=range(5, 55, 5))
    expect(signed_in.get_by_role("figure", name="Error, %")).to_be_visible()
    assert [url for url in opened if "/v1/" in url] == []
    signed_in.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    signed_in.wait_for_event("requestfailed") if not ended else None
    assert "/v1/stream" in ended[-1]


def test_a_finished_job_shows_which_classes_it_confuses(signed_in: Page, api: Api) -> None:
    predicted = [0, 1, 2, 3, 4, 5, 6, 7, 8, 4]
    job_id = finish_with_predictions(api, api.core.run(), predicted)
    signed_in.goto(f"{api.url}/jobs/{job_id}")
    signed_in.get_by_text("Errors by class").click()
    row = signed_in.get_by_role("region", name="Confusion matrix").get_by_role("row").last
    expect(row).to_have_text("91100.00 %")
    signed_in.get_by_text("Most confused classes").click()
    expect(signed_in.get_by_text("9 as 4: 1")).to_be_visible()
    assert_accessible(signed_in)


def test_a_picture_that_is_chosen_or_dropped_is_predicted(
    signed_in: Page, api: Api, errors: list[str], tmp_path: Path
) -> None:
    signed_in.goto(f"{api.url}/jobs/{finish_with_network(api, make_color_network())}")
    field = signed_in.get_by_label("Image file")
    field.set_input_files(_file("warm.png", make_picture(200, 100, 0)))
    predicted = signed_in.get_by_role("region", name="Likeliest classes")
    rows = predicted.get_by_role("row")
    expect(rows).to_have_text(["ClassProbability", "red86.68 %", "green11.73 %", "blue1.59 %"])
    assert_accessible(signed_in)
    _drop(signed_in, field, tmp_path / "cold.png", make_picture(0, 100, 200))
    expect(predicted.get_by_text("cold.png")).to_be_visible()
    expect(rows.nth(1)).to_have_text("blue86.68 %")
    expect(field).to_have_value(re.compile("cold.png$"))
    assert errors == []
    _drop(signed_in, field, tmp_path / "notes.txt", b"no image")
    expect(signed_in.get_by_text("the body is not the bytes of an image file")).to_be_visible()
    expect(predicted).to_be_hidden()
    # Chromium logs each response that is an error.
    errors.clear()


def _file(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def _drop(page: Page, target: Locator, path: Path, content: bytes) -> None:
    """A file, as a person drags it from the desktop."""
    path.write_bytes(content)
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    devtools = page.context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box["x"] + 5, "y": box["y"] + 5, "data": dragged}
        devtools.send("Input.dispatchDragEvent", event)
    devtools.detach()


def test_a_curve_that_leaves_its_envelope_is_noted_and_drawn_with_it(
    signed_in: Page, api: Api
) -> None:
    completed = ""
    for seed in range(3):
        claimed = api.core.run(seed=seed)
        points = [
            make_point("test/error", iteration, 50.0 + seed - iteration) for iteration in (10, 20)
        ]
        api.core.report(claimed.attempt_id, 2, metrics=points, checkpoints=[note(20)])
        api.core.finish(claimed.attempt_id)
        api.core.release(claimed)
        completed = job_id_of(claimed)
    running = api.core.run(seed=7)
    points = [make_point("test/error", iteration, 99.0) for iteration in (10, 20)]
    api.core.report(running.attempt_id, 2, metrics=points)
    signed_in.goto(f"{api.url}/jobs/{job_id_of(running)}")
    message = "The curve leaves the range of 3 completed jobs with other seeds at iteration 10"
    expect(signed_in.get_by_text(message)).to_be_visible()
    error = signed_in.get_by_role("figure", name="Error, %").get_by_role("img")
    expect(error).to_have_attribute("aria-label", re.compile("expected from 3 other seeds 31"))
    signed_in.goto(f"{api.url}/jobs/{completed}")
    expect(signed_in.get_by_role("link", name="Signed result card")).to_be_visible()
    assert_accessible(signed_in)
