// The page of a follow-up: two scans side by side at the same place. Moving, zooming and the contrast act on both.

const FOLLOW_ZOOM = 3; // zoom when the reader chooses a lesion in an overview
const LESION_LINE = 1.8; // width of the outlines in pixels
const CURRENT_LINE = 3; // width of the outline of the chosen lesion

async function unpackVolume(id, type) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return type === "uint8" ? new Uint8Array(buffer) : new Uint16Array(buffer);
}

/** One scan. Each lesion has the colour of its state and its number in the instance map. */
class FollowedScan extends SliceView {
  constructor(host, colors, calls, lesionColors) {
    super(host, colors, calls);
    this.lesionColors = lesionColors;
    this.current = [];
  }

  drawOutlines(context, pane, frame, index) {
    if (!this.layers.prediction) return;
    const slice = this.labelSlice("prediction", pane, index);
    const ends = new Map(); // of each lesion: the rightmost column and the mean row
    slice.data.forEach((number, place) => {
      if (!number) return;
      const row = Math.floor(place / slice.columns);
      const end = ends.get(number) || { column: 0, rows: 0, count: 0 };
      end.column = Math.max(end.column, place % slice.columns);
      end.rows += row;
      end.count += 1;
      ends.set(number, end);
    });
    for (const number of ends.keys()) {
      const alone = { ...slice, data: slice.data.map((value) => (value === number ? 1 : 0)) };
      const width = this.current.includes(number) ? CURRENT_LINE : LESION_LINE;
      this.strokeOutline(context, alone, frame, this.lesionColors[number] || "#ffffff", width);
    }
    context.font = "600 12px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = "rgba(0,0,0,0.8)";
    for (const [number, { column, rows, count }] of ends) {
      const x = frame.left + (column + 1) * frame.column + 4;
      const y = frame.top + (rows / count + 0.5) * frame.row + 4;
      context.strokeText(number, x, y);
      context.fillStyle = this.lesionColors[number] || "#ffffff";
      context.fillText(number, x, y);
    }
  }
}

class FollowViewer {
  constructor(box, data) {
    this.box = box;
    this.data = data;
    this.controls = Object.fromEntries(Array.from(box.querySelectorAll("[data-control]"), (c) => [c.dataset.control, c]));
    const hosts = Array.from(box.querySelectorAll("[data-panes]"));
    this.scans = hosts.map((host, side) => {
      const calls = {
        onMove: (position) => this.moveTo(position),
        onZoom: (steps) => this.setZoom(Number(this.controls.zoom.value) + 0.5 * steps),
        onWindow: (black, white) => this.setWindow(black, white),
      };
      return new FollowedScan(host, data.colors, calls, data.scans[side].lesionColors);
    });
    for (const [side, scan] of this.scans.entries()) {
      const enlarge = scan.enlarge.bind(scan);
      // A double-click enlarges the same plane of both scans.
      scan.enlarge = (pane) => {
        enlarge(pane);
        const other = this.scans[1 - side];
        SliceView.prototype.enlarge.call(other, other.panes[scan.panes.indexOf(pane)]);
      };
    }
    this.connect();
  }

  connect() {
    this.controls.zoom.addEventListener("input", () => this.setZoom(Number(this.controls.zoom.value)));
    for (const name of ["black", "white"]) {
      this.controls[name].addEventListener("input", () => {
        this.setWindow(Number(this.controls.black.value), Number(this.controls.white.value));
      });
    }
    this.controls.outlines.addEventListener("change", () => {
      for (const scan of this.scans) scan.setLayer("prediction", this.controls.outlines.checked);
    });
    this.box.querySelector("[data-action=reset]").addEventListener("click", () => {
      this.setWindow(0, 255);
      this.setZoom(1);
    });
    for (const row of this.box.querySelectorAll("[data-point]")) row.addEventListener("click", () => this.showRow(row));
  }

  async load() {
    for (const [side, scan] of this.scans.entries()) {
      const { image, prediction } = this.data.scans[side].volumes;
      const volumes = { image: await unpackVolume(image.id, image.type), prediction: await unpackVolume(prediction.id, prediction.type) };
      scan.load(this.data, volumes);
    }
    const first = this.box.querySelector("[data-point]");
    if (first) this.showRow(first);
    this.box.dataset.ready = "";
  }

  showRow(row) {
    for (const other of this.box.querySelectorAll("tr.current")) other.classList.remove("current");
    row.classList.add("current");
    this.scans.forEach((scan, side) => {
      scan.current = (row.dataset[side ? "later" : "earlier"] || "").split(" ").filter(Boolean).map(Number);
    });
    if (Number(this.controls.zoom.value) === 1) this.setZoom(FOLLOW_ZOOM);
    this.moveTo(row.dataset.point.split(" ").map(Number));
  }

  moveTo(position) {
    for (const scan of this.scans) scan.moveTo(position);
  }

  setZoom(zoom) {
    this.controls.zoom.value = zoom;
    for (const scan of this.scans) scan.setZoom(Number(this.controls.zoom.value));
  }

  setWindow(black, white) {
    this.controls.black.value = black;
    this.controls.white.value = white;
    const low = Number(this.controls.black.value);
    for (const scan of this.scans) scan.setWindow(low, Math.max(Number(this.controls.white.value), low + 1));
  }
}

for (const box of document.querySelectorAll("[data-follow]")) {
  if (!box.querySelector("[data-panes]")) continue; // the scans were not given
  const viewer = new FollowViewer(box, JSON.parse(document.getElementById(box.dataset.follow).textContent));
  viewer.load().catch((error) => {
    box.querySelector("[data-note]").textContent = `This browser cannot show the pictures (${error.message}).`;
    box.dataset.failed = "";
  });
}
