"""The report in a browser: opened from disk, clicked, measured.

Chromium is driven by a script that is added to a copy of the report: it watches for errors from the beginning, does
what a reader would do, and leaves what it saw in the page, which Chromium prints. So a page is opened once and asked
many things.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from detseg3d.io.files import read_json
from detseg3d.reporting.html.niivue import find_niivue
from detseg3d.reporting.html.report import write_report
from detseg3d.reporting.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR
from tests.reporting.html.factory import cube, evaluate, save_case, view

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1366,900",
]
NO_WEBGL = ["--disable-gpu", "--disable-3d-apis"]
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
ATTACK = "<img src=x onerror=alert(1)>"
UPSIDE_DOWN = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SHAPE = (10, 24, 24)
# The worst case's lesions: z, y, x of the corner, size.
LARGE, MISSED = ((2, 4, 14), 8), ((7, 16, 3), 3)

WATCH = """
const seen = { errors: [], requests: [], alerts: 0 };
addEventListener("error", (e) => seen.errors.push(String(e.message || e.target.src)), true);
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => seen.errors.push(`${e.violatedDirective} ${e.blockedURI}`));
console.error = (...parts) => seen.errors.push(parts.join(" "));
console.warn = (...parts) => seen.errors.push(parts.join(" "));
window.alert = () => { seen.alerts += 1; };
"""

ACT = """
const box = document.getElementById("viewer-box");
const until = async (true_yet) => {
  for (let tries = 0; tries < 400 && !true_yet(); tries += 1) await new Promise((r) => setTimeout(r, 25));
  if (!true_yet()) throw new Error(`waited in vain for ${true_yet}`);
};
const pause = () => new Promise((r) => setTimeout(r, 50)); // without a screen there are no animation frames
const panel = () => box.querySelector("[data-panel]:not([hidden])");
const rows = () => Array.from(panel().querySelectorAll("[data-point]"));
const picture = (place = 0) => box.querySelectorAll("canvas")[place].toDataURL();
const has = (hex) => { // lines are thin and blend with what is below, which is grey
  const wanted = [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
  const canvas = box.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (wanted.every((value, channel) => Math.abs(value - data[i + channel]) < 60)) count += 1;
  }
  return count;
};
const column = (table, place) => Array.from(table.tBodies[0].rows, (row) => row.cells[place].textContent);
(async () => {
  try {
    await until(() => box.dataset.ready !== undefined && box.dataset.ready !== "");
    seen.mode = box.dataset.mode;
    seen.note = box.querySelector("[data-note]").textContent;
    DO
  } catch (error) {
    seen.errors.push(String(error.stack || error));
  }
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.requests = loaded.filter((name) => !/^(blob|data):/.test(name));
  seen.images = document.images.length;
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
})();
"""

READ = """
    seen.lesions = [];
    for (const row of rows()) {
      const before = picture();
      row.querySelector(".goto").click();
      await pause();
      seen.lesions.push({
        outcome: row.cells[1].textContent, point: box.dataset.point, target: row.dataset.point,
        current: row.className,
        readout: box.querySelector("[data-readout]").textContent, changed: picture() !== before,
        colors: [has("TRUTH"), has("PREDICTION"), has("BOX")],
      });
    }
    rows()[0].click();
    seen.layers = {};
    for (const [name, color] of [["truth", "TRUTH"], ["prediction", "PREDICTION"], ["boxes", "BOX"]]) {
      const field = box.querySelector(`[data-layer=${name}]`);
      const on = has(color);
      field.click();
      const off = has(color);
      field.click();
      seen.layers[name] = [on, off, has(color)];
    }
    const axial = box.querySelector("canvas");
    seen.keys = [box.dataset.point];
    for (const key of ["ArrowRight", "ArrowDown", "PageUp"]) {
      axial.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      seen.keys.push(box.dataset.point);
    }
    axial.dispatchEvent(new KeyboardEvent("keydown", { key: "t", bubbles: true }));
    seen.shortcut = box.querySelector("[data-layer=truth]").checked;
    box.querySelector("[data-action=reset]").click();
    const place = axial.getBoundingClientRect();
    const middle = { clientX: place.left + place.width / 2, clientY: place.top + place.height / 2 };
    const pointer = { ...middle, pointerId: 1, bubbles: true };
    axial.setPointerCapture = () => {};
    axial.dispatchEvent(new PointerEvent("pointerdown", pointer));
    seen.middle = box.dataset.point;
    const coronal = box.querySelectorAll("canvas")[1];
    const upper = coronal.getBoundingClientRect();
    coronal.setPointerCapture = () => {};
    const above = { clientX: upper.left + upper.width / 2, clientY: upper.top + upper.height * 0.45 };
    coronal.dispatchEvent(new PointerEvent("pointerdown", { ...above, pointerId: 1, bubbles: true }));
    seen.above = box.dataset.point;
    seen.slices = [];
    const slider = box.querySelector(".pane input");
    for (let slice = 0; slice <= Number(slider.max); slice += 1) {
      slider.value = slice;
      slider.dispatchEvent(new Event("input"));
      seen.slices.push(has("BOX") > 0);
    }
    const dark = picture();
    box.querySelector("[data-control=white]").value = 60;
    box.querySelector("[data-control=white]").dispatchEvent(new Event("input"));
    seen.brighter = picture() !== dark;
    const tabs = document.querySelectorAll("[role=tab]");
    tabs[1].click();
    await until(() => box.dataset.ready === "1");
    seen.second = { selected: tabs[1].getAttribute("aria-selected"), title: panel().querySelector("h3").textContent };
    const table = document.getElementById("case-table");
    const heads = Array.from(table.tHead.rows[0].cells);
    const dice = heads.findIndex((cell) => cell.textContent === "Dice");
    seen.sorted = [];
    for (let times = 0; times < 2; times += 1) {
      heads[dice].querySelector("button").click();
      seen.sorted.push([heads[dice].getAttribute("aria-sort"), column(table, dice)]);
    }
    heads[2].querySelector("button").click();
    seen.found = column(table, 2);
    const field = document.querySelector("[data-filter]");
    field.value = "ERR";
    field.dispatchEvent(new Event("input"));
    const left = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
    seen.filtered = left.map((row) => row.cells[0].textContent);
    table.querySelector("[data-show-case]").click();
    await until(() => box.dataset.ready === "0");
    dispatchEvent(new Event("beforeprint"));
    seen.folded = document.querySelectorAll("details:not([open])").length;
"""

READ_NIIVUE = """
    seen.lesions = [];
    const pictures = new Set();
    for (const row of rows()) {
      row.click();
      pictures.add(picture()); // at once: what WebGL has drawn is gone when the script pauses
      seen.lesions.push({ point: box.dataset.point, target: row.dataset.point });
      await pause();
    }
    seen.pictures = pictures.size;
    const canvas = box.querySelector("canvas");
    const place = canvas.getBoundingClientRect();
    const corner = { clientX: place.left + place.width * 0.2, clientY: place.top + place.height * 0.2 };
    const at = { ...corner, button: 0, buttons: 1, bubbles: true };
    canvas.dispatchEvent(new MouseEvent("mousedown", at));
    canvas.dispatchEvent(new MouseEvent("mouseup", at));
    await pause();
    seen.clicked = box.dataset.point;
    box.querySelector("[data-action=switch]").click();
    await until(() => box.dataset.mode === "slices" && box.dataset.ready !== "");
    seen.after = { mode: box.dataset.mode, point: box.dataset.point, canvases: box.querySelectorAll("canvas").length };
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans that are stored upside down; the worst bears a name that attacks the page."""
    folder = tmp_path_factory.mktemp("cases")
    random = np.random.default_rng(0)
    for name, missed in ((ATTACK, True), ("better", False), ("healthy", False)):
        image = random.normal(100, 5, SHAPE).astype(np.float32)
        truth, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
        if name != "healthy":
            cube(truth, *LARGE, 1)
            cube(truth, *MISSED, 1)
            (z, y, x), size = LARGE
            cube(prediction, (z, y + 2, x), size, 1)
            if not missed:
                cube(prediction, *MISSED, 2)
        image[truth > 0] += 80
        save_case(folder, name, image, truth, prediction, direction=UPSIDE_DOWN)
    return folder


def make_report(root: Path, name: str = "report.html", **options: Any) -> Path:
    views = []
    for case in (ATTACK, "better", "healthy"):
        lesions = read_json(root / "predictions" / "rois" / f"{case}.json")["lesions"]
        views.append(view(root, case, lesions))
    return write_report(root / name, evaluate(root), cases_view=views, worst=1, best=1, **options)


def with_script(report: Path, script: str) -> Path:
    """A copy of the report that watches itself and runs the script."""
    colors = {"TRUTH": TRUTH_COLOR, "PREDICTION": PREDICTION_COLOR, "BOX": BOX_COLOR}
    for word, color in colors.items():
        script = script.replace(f'"{word}"', f'"{color}"')
    text = report.read_text(encoding="utf-8")
    text = text.replace("<body>", f"<body><script>{WATCH}</script>", 1)
    before, after = text.rsplit("</body>", 1)
    copy = report.with_name(f"watched_{report.name}")
    copy.write_text(f"{before}<script>{ACT.replace('DO', script)}</script></body>{after}", encoding="utf-8")
    return copy


def browse(page: Path, folder: Path, *flags: str) -> str:
    """What Chromium prints; its profile is new every time."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8")


def look(report: Path, script: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Open the report, run the script, and return what it saw."""
    dumped = browse(with_script(report, script), folder, "--dump-dom", "--virtual-time-budget=30000", *flags)
    found = re.search(r'<pre id="seen">(.*?)</pre>', dumped, re.DOTALL)
    assert found is not None, "the script did not come to its end"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


@pytest.fixture(scope="module")
def seen(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report with plain slices, as a reader without NiiVue has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detseg3d.reporting.html.niivue.importlib.util.find_spec", lambda name: None)
        report = make_report(root)
    return look(report, READ, tmp_path_factory.mktemp("browser"), *NO_WEBGL)


def point(text: str) -> list[float]:
    return [float(value) for value in text.split()]


def test_nothing_goes_wrong_and_nothing_is_fetched(seen: dict[str, Any]) -> None:
    assert (seen["errors"], seen["requests"]) == ([], [])
    assert seen["mode"] == "slices" and "detseg3d[report]" in seen["note"]


def test_the_watch_notices_what_goes_wrong(root: Path, tmp_path: Path) -> None:
    """The check above can fail: an error, a request and an attack are all seen."""
    report = make_report(root, "damaged.html")
    text = report.read_text(encoding="utf-8")
    damage = '<img src="https://example.invalid/x.png"><script>alert(1); throw new Error("broken");</script>'
    report.write_text(text.replace("<main>", f"<main>{damage}", 1), encoding="utf-8")
    noticed = look(report, "", tmp_path, *NO_WEBGL)
    assert any("broken" in error for error in noticed["errors"])
    assert any("img-src" in error for error in noticed["errors"])
    assert (noticed["alerts"], noticed["images"]) == (1, 1)


def test_a_hostile_name_stays_a_name(seen: dict[str, Any]) -> None:
    assert (seen["alerts"], seen["images"]) == (0, 0)


def test_a_lesion_in_the_table_leads_the_crosshair_to_it(seen: dict[str, Any]) -> None:
    assert [lesion["outcome"] for lesion in seen["lesions"]] == ["found", "missed"]
    for lesion in seen["lesions"]:
        assert point(lesion["point"]) == point(lesion["target"]) and lesion["current"] == "current"
    assert seen["lesions"][1]["changed"]


def test_the_crosshair_is_where_the_lesion_is_in_the_file(seen: dict[str, Any]) -> None:
    for lesion, ((z, y, x), size) in zip(seen["lesions"], (LARGE, MISSED), strict=True):
        depth = max(size // 2, 1)
        middle = (z + depth // 2, y + size // 2, x + size // 2)
        assert lesion["readout"] == "voxel of the file: z {}, y {}, x {}".format(*middle)


def test_outlines_and_boxes_are_drawn_in_their_colours(seen: dict[str, Any]) -> None:
    found, missed = (lesion["colors"] for lesion in seen["lesions"])
    assert all(count > 20 for count in found)
    assert missed[0] > 20 and missed[1] == missed[2] == 0  # what was missed has neither prediction nor box


@pytest.mark.parametrize("layer", ["truth", "prediction", "boxes"])
def test_a_layer_can_be_switched_off_and_on(seen: dict[str, Any], layer: str) -> None:
    before, off, after = seen["layers"][layer]
    assert before == after > 20 and off == 0


def test_keys_move_the_crosshair_by_a_voxel(seen: dict[str, Any]) -> None:
    start, right, down, up = (np.floor(point(text)) for text in seen["keys"])
    assert (right - start).tolist() == [0, 0, 1]
    assert (down - right).tolist() == [0, 1, 0]
    assert (up - down).tolist() == [1, 0, 0]
    assert seen["shortcut"] is False


def test_a_click_in_the_middle_is_the_middle_of_the_scan(seen: dict[str, Any]) -> None:
    assert point(seen["middle"])[1:] == pytest.approx([SHAPE[1] / 2, SHAPE[2] / 2], abs=0.2)


def test_a_click_above_the_middle_goes_to_the_head(seen: dict[str, Any]) -> None:
    assert point(seen["above"])[0] > SHAPE[0] / 2


def test_a_box_is_seen_on_its_slices_only(seen: dict[str, Any]) -> None:
    (z, _, _), size = LARGE
    expected = [z <= number < z + size // 2 for number in range(SHAPE[0])]
    assert seen["slices"] == expected[::-1]  # the first slice shown is the lowest, and the file runs downwards


def test_contrast_changes_the_picture(seen: dict[str, Any]) -> None:
    assert seen["brighter"] is True


def test_another_case_is_shown_with_its_lesions(seen: dict[str, Any]) -> None:
    assert seen["second"] == {"selected": "true", "title": "better 2 of 2 lesions found, 0 false positives"}


def test_a_click_on_a_column_sorts_the_table(seen: dict[str, Any]) -> None:
    (up, rising), (down, falling) = seen["sorted"]
    assert (up, down) == ("ascending", "descending")
    assert len(set(rising)) == 3 and rising == sorted(rising, key=float) and falling == rising[::-1]


def test_cases_without_a_figure_come_last(seen: dict[str, Any]) -> None:
    assert seen["found"] == ["1", "2", "–"]


def test_a_case_can_be_searched_for(seen: dict[str, Any]) -> None:
    assert seen["filtered"] == [ATTACK]


def test_everything_is_open_on_paper(seen: dict[str, Any]) -> None:
    assert seen["folded"] == 0


def test_the_page_can_be_looked_at(root: Path, seen: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    browse(root / "report.html", tmp_path, f"--screenshot={picture}", "--virtual-time-budget=10000", *WEBGL)
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (900, 1366) and pixels[..., :3].std() > 0.05


@pytest.mark.slow
def test_niivue_goes_to_the_lesion_and_gives_way_to_slices(root: Path, tmp_path: Path) -> None:
    if find_niivue() is None:
        pytest.skip("NiiVue is not installed (the extra 'report')")
    noticed = look(make_report(root, "niivue.html"), READ_NIIVUE, tmp_path, *WEBGL)
    if "WebGL" in noticed["note"]:
        pytest.skip("this Chromium has no WebGL 2")
    assert (noticed["errors"], noticed["requests"]) == ([], [])
    assert noticed["mode"] == "niivue"
    assert all(point(lesion["point"]) == point(lesion["target"]) for lesion in noticed["lesions"])
    assert noticed["pictures"] == len(noticed["lesions"]) == 2
    assert noticed["clicked"] != noticed["lesions"][1]["point"]
    assert noticed["after"] == {"mode": "slices", "point": noticed["clicked"], "canvases": 4}


def test_without_webgl_slices_stand_in_for_niivue(root: Path, tmp_path: Path) -> None:
    code = tmp_path / "viewer.js"
    code.write_text("this.niivue = {}; niivue.Niivue = class { attachToCanvas() {} };", encoding="utf-8")
    noticed = look(make_report(root, "other.html", niivue_js=code), "", tmp_path, *NO_WEBGL)
    assert (noticed["errors"], noticed["mode"]) == ([], "slices")
    assert "WebGL 2" in noticed["note"]


def test_slices_stand_in_for_a_niivue_that_fails(root: Path, tmp_path: Path) -> None:
    code = tmp_path / "viewer.js"
    code.write_text(
        "this.niivue = {}; niivue.Niivue = class { async attachToCanvas() { throw new Error('no luck'); } };",
        encoding="utf-8",
    )
    noticed = look(make_report(root, "other.html", niivue_js=code), "", tmp_path, *WEBGL)
    if "WebGL" in noticed["note"]:
        pytest.skip("this Chromium has no WebGL 2")
    assert noticed["mode"] == "slices" and "no luck" in noticed["note"]
    assert noticed["errors"] == []
