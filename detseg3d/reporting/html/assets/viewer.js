// The viewer: it shows the chosen case and lesion, and connects the controls with the pictures.

const LESION_ZOOM = 3; // zoom when the reader chooses a lesion in an overview

/** Return the voxels of an embedded volume. They are numbers of 8 or 16 bits, little-endian, compressed with gzip. */
async function unpack(id, type) {
  const text = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return type === "uint8" ? new Uint8Array(buffer) : new Uint16Array(buffer);
}

class Viewer {
  constructor(box, settings) {
    this.box = box;
    this.settings = settings;
    this.readout = box.querySelector("[data-readout]");
    this.note = box.querySelector("[data-note]");
    this.presets = box.querySelector("[data-presets]");
    this.controls = Object.fromEntries(Array.from(box.querySelectorAll("[data-control]"), (c) => [c.dataset.control, c]));
    this.tabs = Array.from(document.querySelectorAll("[data-case]"));
    this.panels = Array.from(box.querySelectorAll("[data-panel]"));
    this.loaded = new Map();
    this.view = new SliceView(box.querySelector("[data-panes]"), settings.colors, {
      onMove: (position) => this.report(position),
      onZoom: (steps) => this.zoomBy(steps),
      onWindow: (black, white) => this.setWindow(black, white),
    });
    this.connect();
  }

  connect() {
    this.tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => this.showCase(index));
      tab.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        const next = (index + by + this.tabs.length) % this.tabs.length;
        this.tabs[next].focus();
        this.showCase(next);
      });
    });
    for (const link of document.querySelectorAll("[data-show-case]")) {
      link.addEventListener("click", () => this.showCase(this.settings.cases.findIndex((c) => c.id === link.dataset.showCase)));
    }
    for (const row of this.box.querySelectorAll("[data-point]")) row.addEventListener("click", () => this.showLesion(row));
    for (const field of this.box.querySelectorAll("[data-layer]")) {
      field.addEventListener("change", () => this.view.setLayer(field.dataset.layer, field.checked));
    }
    this.controls.zoom.addEventListener("input", () => this.view.setZoom(Number(this.controls.zoom.value)));
    for (const name of ["black", "white"]) this.controls[name].addEventListener("input", () => this.applyWindow());
    this.box.querySelector("[data-action=local-window]").addEventListener("click", () => this.setWindow(...this.view.localWindow()));
    this.box.querySelector("[data-action=reset]").addEventListener("click", () => this.reset());
    this.box.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const layer = { t: "truth", p: "prediction", b: "boxes" }[event.key.toLowerCase()];
    if (layer) this.box.querySelector(`[data-layer=${layer}]`).click();
    const steps = { "+": 1, "-": -1 }[event.key];
    if (steps) this.zoomBy(steps);
  }

  async read(index) {
    if (!this.loaded.has(index)) {
      const volumes = {};
      for (const [name, type] of Object.entries(this.settings.cases[index].layers)) {
        volumes[name] = await unpack(`volume-${index}-${name}`, type);
      }
      this.loaded.set(index, volumes);
    }
    return this.loaded.get(index);
  }

  async showCase(index) {
    this.box.dataset.ready = "";
    this.current = index;
    this.tabs.forEach((tab, place) => {
      tab.setAttribute("aria-selected", String(place === index));
      tab.tabIndex = place === index ? 0 : -1;
    });
    this.panels.forEach((panel, place) => {
      panel.hidden = place !== index;
    });
    const info = this.settings.cases[index];
    for (const field of this.box.querySelectorAll("[data-layer]")) {
      const { layer } = field.dataset;
      const exists = layer === "boxes" ? info.boxes.length > 0 : layer in info.layers;
      field.disabled = !exists;
      field.closest("label").classList.toggle("absent", !exists);
    }
    const volumes = await this.read(index);
    if (this.current !== index) return; // the reader has chosen another case meanwhile
    this.showPresets(info.presets);
    this.view.load(info, volumes);
    this.applyWindow();
    const first = this.panels[index].querySelector("[data-point]");
    if (first) {
      this.showLesion(first);
    } else {
      this.setZoom(1);
      this.moveTo(info.shape.map((size) => size / 2));
    }
    this.box.dataset.ready = String(index);
  }

  showPresets(presets) {
    const buttons = presets.map(({ name, black, white }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => this.setWindow(black, white));
      return button;
    });
    this.presets.replaceChildren(...buttons);
  }

  showLesion(row) {
    for (const other of this.box.querySelectorAll("tr.current")) other.classList.remove("current");
    row.classList.add("current");
    if (Number(this.controls.zoom.value) === 1) this.setZoom(LESION_ZOOM);
    this.moveTo(row.dataset.point.split(" ").map(Number));
  }

  setZoom(zoom) {
    this.controls.zoom.value = zoom;
    this.view.setZoom(Number(this.controls.zoom.value)); // the slider has limited the value
  }

  zoomBy(steps) {
    this.setZoom(Number(this.controls.zoom.value) + steps * 0.5);
  }

  setWindow(black, white) {
    this.controls.black.value = black;
    this.controls.white.value = white;
    this.applyWindow();
  }

  applyWindow() {
    const black = Number(this.controls.black.value);
    this.view.setWindow(black, Math.max(Number(this.controls.white.value), black + 1));
  }

  reset() {
    this.setWindow(0, 255);
    this.setZoom(1);
    this.moveTo(this.settings.cases[this.current].shape.map((size) => size / 2));
  }

  moveTo(position) {
    this.view.moveTo(position);
    this.report(position);
  }

  /** State the position of the crosshair as a voxel of the image file, and the intensity of this voxel. */
  report(position) {
    const info = this.settings.cases[this.current];
    const { permutation, flipped, shape, offset, factor } = info.frame;
    const stored = [0, 0, 0];
    position.forEach((value, axis) => {
      const size = shape[permutation[axis]];
      const place = value * factor[axis] + offset[axis];
      stored[permutation[axis]] = clamp(Math.floor(flipped[axis] ? size - place : place), 0, size - 1);
    });
    this.box.dataset.point = position.map((value) => value.toFixed(2)).join(" ");
    this.readout.textContent = `Voxel of the file: z ${stored[0]}, y ${stored[1]}, x ${stored[2]}. Intensity: ${this.intensity(info)}.`;
  }

  /** Return the intensity under the crosshair as text. Grey levels 0 and 255 also mean values beyond the window. */
  intensity({ intensities: [low, high] }) {
    const level = this.view.level();
    const value = low + ((high - low) * level) / 255;
    const digits = Math.max(0, 2 - Math.floor(Math.log10((high - low) / 2)));
    const relation = { 0: "at most", 255: "at least" }[level] || "about";
    return `${relation} ${value.toFixed(Math.min(digits, 12))}`;
  }
}

const viewerData = document.getElementById("viewer-data");
if (viewerData) {
  const box = document.getElementById("viewer-box");
  const viewer = new Viewer(box, JSON.parse(viewerData.textContent));
  viewer.showCase(0).catch((error) => {
    viewer.note.textContent = `This browser cannot show the pictures (${error.message}).`;
    box.dataset.failed = "";
  });
}
