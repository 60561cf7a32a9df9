// Which case and which lesion the viewer shows, and which of the two viewers it is.

const LESION_ZOOM = 3;

async function unpack(id) {
  const text = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** The voxels of a NIfTI file as the report embeds them: unsigned numbers of 8 or 16 bits, little-endian. */
function voxelsOf(file) {
  const header = new DataView(file);
  const offset = header.getFloat32(108, true);
  return header.getInt16(70, true) === 2 ? new Uint8Array(file, offset) : new Uint16Array(file, offset);
}

class Viewer {
  constructor(box, settings) {
    this.box = box;
    this.settings = settings;
    this.panes = box.querySelector("[data-panes]");
    this.readout = box.querySelector("[data-readout]");
    this.note = box.querySelector("[data-note]");
    this.switch = box.querySelector("[data-action=switch]");
    this.controls = Object.fromEntries(Array.from(box.querySelectorAll("[data-control]"), (c) => [c.dataset.control, c]));
    this.tabs = Array.from(document.querySelectorAll("[data-case]"));
    this.panels = Array.from(box.querySelectorAll("[data-panel]"));
    this.loaded = new Map();
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
    this.box.querySelector("[data-action=reset]").addEventListener("click", () => this.reset());
    this.switch.addEventListener("click", () => this.useView(this.view instanceof SliceView));
    this.box.addEventListener("keydown", (event) => {
      const layer = { t: "truth", p: "prediction", b: "boxes" }[event.key.toLowerCase()];
      if (!layer || event.ctrlKey || event.metaKey || event.altKey) return;
      this.box.querySelector(`[data-layer=${layer}]`).click();
    });
  }

  /** Begin with NiiVue if it is in the page and the browser can draw with it. */
  async start() {
    const { niivue } = this.settings;
    let reason = "";
    if (!niivue) {
      reason = "Plain slices. With NiiVue (pip install detseg3d[report]) the report also renders in 3D.";
    } else if (!hasWebgl2()) {
      reason = "Plain slices, as this browser has no WebGL 2, which NiiVue needs.";
    } else {
      try {
        this.Niivue = await loadNiivue(niivue, await unpack("niivue-code"));
        this.switch.hidden = false;
      } catch (error) {
        reason = `Plain slices, as NiiVue did not start (${error.message}).`;
      }
    }
    this.note.textContent = reason;
    this.current = 0;
    await this.useView(Boolean(this.Niivue));
  }

  /** Draw with NiiVue or as plain slices; if NiiVue fails, as plain slices. */
  async useView(withNiivue) {
    this.box.dataset.ready = "";
    if (this.view) this.view.remove();
    const moved = (position) => this.told(position);
    const { colors } = this.settings;
    this.view = withNiivue ? new NiivueView(this.panes, colors, moved, this.Niivue) : new SliceView(this.panes, colors, moved);
    this.box.dataset.mode = withNiivue ? "niivue" : "slices";
    this.switch.textContent = withNiivue ? "Plain slices" : "NiiVue with 3D";
    for (const field of this.box.querySelectorAll("[data-layer]")) this.view.layers[field.dataset.layer] = field.checked;
    try {
      await this.showCase(this.current, this.position);
    } catch (error) {
      if (!withNiivue) throw error;
      this.Niivue = null;
      this.switch.hidden = true;
      this.note.textContent = `Plain slices, as NiiVue could not draw this (${error.message}).`;
      await this.useView(false);
    }
  }

  async read(index) {
    if (!this.loaded.has(index)) {
      const files = {};
      for (const name of this.settings.cases[index].layers) files[name] = await unpack(`volume-${index}-${name}`);
      const volumes = Object.fromEntries(Object.entries(files).map(([name, file]) => [name, voxelsOf(file)]));
      this.loaded.set(index, { files, volumes });
    }
    return this.loaded.get(index);
  }

  async showCase(index, position = null) {
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
      const there = field.dataset.layer === "boxes" ? info.boxes.length > 0 : info.layers.includes(field.dataset.layer);
      field.disabled = !there;
      field.closest("label").classList.toggle("absent", !there);
    }
    const { files, volumes } = await this.read(index);
    if (this.current !== index) return; // another case was chosen meanwhile
    await this.view.load(info, volumes, files);
    this.applyWindow();
    const first = this.panels[index].querySelector("[data-point]");
    if (position) {
      this.view.setZoom(Number(this.controls.zoom.value));
      this.moveTo(position);
    } else if (first) {
      this.showLesion(first);
    } else {
      this.setZoom(1);
      this.moveTo(info.shape.map((size) => size / 2));
    }
    this.box.dataset.ready = String(index);
  }

  showLesion(row) {
    for (const other of this.box.querySelectorAll("tr.current")) other.classList.remove("current");
    row.classList.add("current");
    if (Number(this.controls.zoom.value) === 1) this.setZoom(LESION_ZOOM);
    this.moveTo(row.dataset.point.split(" ").map(Number));
  }

  setZoom(zoom) {
    this.controls.zoom.value = zoom;
    this.view.setZoom(zoom);
  }

  applyWindow() {
    const black = Number(this.controls.black.value);
    this.view.setWindow(black, Math.max(Number(this.controls.white.value), black + 1));
  }

  reset() {
    this.controls.black.value = 0;
    this.controls.white.value = 255;
    this.applyWindow();
    this.setZoom(1);
    this.moveTo(this.settings.cases[this.current].shape.map((size) => size / 2));
  }

  moveTo(position) {
    this.view.moveTo(position);
    this.told(position);
  }

  /** Say where the crosshair is, in voxels of the original file. */
  told(position) {
    this.position = position;
    const info = this.settings.cases[this.current];
    const { permutation, flipped, shape, offset, factor } = info.frame;
    const stored = [0, 0, 0];
    position.forEach((value, axis) => {
      const size = shape[permutation[axis]];
      const place = value * factor[axis] + offset[axis];
      stored[permutation[axis]] = clamp(Math.floor(flipped[axis] ? size - place : place), 0, size - 1);
    });
    this.box.dataset.point = position.map((value) => value.toFixed(2)).join(" ");
    this.readout.textContent = `voxel of the file: z ${stored[0]}, y ${stored[1]}, x ${stored[2]}`;
  }
}

const viewerData = document.getElementById("viewer-data");
if (viewerData) {
  const box = document.getElementById("viewer-box");
  const viewer = new Viewer(box, JSON.parse(viewerData.textContent));
  viewer.start().catch((error) => {
    viewer.note.textContent = `The pictures cannot be shown in this browser (${error.message}).`;
    box.dataset.mode = "none";
  });
}
