"""Drive Chromium with a script that is added to a copy of a report."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from detseg3d.reporting.pictures.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-gpu",
    "--window-size=1366,900",
]
ATTACK = "<img src=x onerror=alert(1)>"
UPSIDE_DOWN = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SHAPE = (10, 24, 24)
# The lesions of the worst case: corner (z, y, x) and size.
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
const until = async (condition) => {
  for (let tries = 0; tries < 400 && !condition(); tries += 1) await new Promise((r) => setTimeout(r, 25));
  if (!condition()) throw new Error(`this did not become true: ${condition}`);
};
const pause = () => new Promise((r) => setTimeout(r, 50)); // without a screen there are no animation frames
const panel = () => box.querySelector("[data-panel]:not([hidden])");
const rows = () => Array.from(panel().querySelectorAll("[data-point]"));
const picture = (place = 0) => box.querySelectorAll("canvas")[place].toDataURL();
const has = (hex) => { // a line is thin, so its colour blends with the grey picture below
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

TRY_CONTROLS = """
    const axial = box.querySelector("canvas");
    const control = (name) => Number(box.querySelector(`[data-control=${name}]`).value);
    const press = (key) => axial.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const turn = { bubbles: true, cancelable: true };
    const wheel = (options) => axial.dispatchEvent(new WheelEvent("wheel", { ...turn, ...options }));
    const drag = (type, x, y, buttons) => {
      const at = { clientX: x, clientY: y, pointerId: 1, bubbles: true, button: buttons === 2 ? 2 : 0, buttons };
      axial.dispatchEvent(new PointerEvent(type, at));
    };
    axial.setPointerCapture = () => {};
    seen.captions = Array.from(box.querySelectorAll(".caption"), (caption) => caption.textContent);
    seen.zoom = [control("zoom")];
    press("+");
    seen.zoom.push(control("zoom"));
    press("-");
    press("-");
    seen.zoom.push(control("zoom"));
    wheel({ deltaY: -1, ctrlKey: true });
    seen.zoom.push(control("zoom"));
    document.body.focus();
    axial.blur();
    const still = box.dataset.point;
    wheel({ deltaY: 1 });
    seen.scrolled = [box.dataset.point === still];
    axial.focus();
    wheel({ deltaY: 1 });
    seen.scrolled.push(box.dataset.point === still);
    seen.presets = Array.from(box.querySelectorAll("[data-presets] button"), (button) => button.textContent);
    seen.windows = [[control("black"), control("white")]];
    box.querySelector("[data-action=local-window]").click();
    seen.windows.push([control("black"), control("white")]);
    const before = picture();
    box.querySelector("[data-presets] button").click();
    seen.windows.push([control("black"), control("white")]);
    seen.redrawn = picture() !== before;
    drag("pointerdown", 100, 100, 2);
    const place = box.dataset.point;
    drag("pointermove", 60, 100, 2);
    seen.windows.push([control("black"), control("white")]);
    drag("pointermove", 60, 120, 2);
    seen.windows.push([control("black"), control("white")]);
    seen.stayed = box.dataset.point === place;
    axial.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    const visible = () => Array.from(box.querySelectorAll(".pane")).filter((pane) => !pane.hidden).length;
    seen.panes = [visible()];
    axial.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    seen.panes.push(visible());
"""


def with_script(report: Path, script: str) -> Path:
    """Return a copy of the report that records its errors and runs the script."""
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
    """Open a page in Chromium with a new profile, and return what Chromium prints."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    result = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return result.stdout.decode("utf-8")


def look(report: Path, script: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Open the report, run the script, and return what the script recorded."""
    dumped = browse(with_script(report, script), folder, "--dump-dom", "--virtual-time-budget=30000", *flags)
    found = re.search(r'<pre id="seen">(.*?)</pre>', dumped, re.DOTALL)
    assert found is not None, "the script did not finish"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


OPEN_SCANS = """
    const open = async (id) => {
      document.querySelector(`[data-show-case="${id}"]`).click();
      await until(() => box.dataset.ready || box.dataset.failed !== undefined);
    };
    const canvases = () => Array.from(box.querySelectorAll("canvas")).filter((canvas) => canvas.clientWidth > 0);
    seen.first = { sides: canvases().length / 4, title: panel().querySelector("h3").textContent };
    await open("middle");
    seen.opened = {
      title: panel().querySelector("h3").textContent, rows: rows().length, sides: canvases().length / 4,
      chosen: document.querySelector("[data-choose]").value,
      outlines: [has("TRUTH"), has("PREDICTION")],
    };
    const heads = panel().querySelector("thead").rows[0].cells;
    heads[1].querySelector("button").click();
    seen.sorted = heads[1].getAttribute("aria-sort");
    seen.systems = Array.from(box.querySelectorAll("[data-side]"), (field) => [field.value, field.options.length]);
    const captions = () => Array.from(box.querySelectorAll(".caption"), (caption) => caption.textContent);
    if (seen.opened.sides === 2) {
      const pictures = () => [picture(0), picture(4)];
      rows()[0].click();
      const before = pictures();
      const point = box.dataset.point;
      // A move in the second picture moves the first picture as well.
      box.querySelectorAll("canvas")[4].dispatchEvent(new KeyboardEvent("keydown", { key: "PageUp", bubbles: true }));
      const after = pictures();
      seen.linked = [box.dataset.point !== point, after[0] !== before[0], after[1] !== before[1]];
      seen.captions = [captions()[0], captions()[4]];
      const left = box.querySelector("[data-side='0']");
      left.value = left.options[1].value;
      left.dispatchEvent(new Event("change"));
      seen.stayed = box.dataset.point;
      seen.same = picture(0) === picture(4);
    }
    await open("healthy");
    seen.empty = panel().textContent.includes("Neither the truth nor the prediction has a lesion");
"""
