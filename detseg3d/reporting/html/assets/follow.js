// The page of a follow-up: two scans side by side at the same place. Moving, zooming and the contrast act on both.

const FOLLOW_ZOOM = 3; // zoom when the reader chooses a lesion in an overview

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
      return new NumberedScan(host, data.colors, calls, data.scans[side].lesionColors);
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
      const text = (id) => document.getElementById(id).textContent;
      const volumes = { image: await unpack(text(image.id), image.type), prediction: await unpack(text(prediction.id), prediction.type) };
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
