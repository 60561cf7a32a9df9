// The viewer: it shows the chosen case and lesion, and connects the controls with the pictures.

const LESION_ZOOM = 3; // zoom when the reader chooses a lesion in an overview

const MAX_LOADED = 6; // scans whose voxels stay in memory

window.detseg3dScans = {};

/** Load the file of a scan beside the page. It is a script, because a page on a disk cannot request other files. */
function loadScan(file) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const name = file.slice(file.lastIndexOf("/") + 1);
    script.src = file;
    script.onload = () => {
      const scan = window.detseg3dScans[name];
      delete window.detseg3dScans[name];
      script.remove();
      if (scan) resolve(scan);
      else reject(new Error(`${file} is damaged`));
    };
    script.onerror = () => reject(new Error(`${file} is missing; keep this folder beside the page`));
    document.head.append(script);
  });
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
    this.chooser = document.querySelector("[data-choose]");
    this.sides = Array.from(box.querySelectorAll("[data-side]"));
    const panels = Array.from(box.querySelectorAll("[data-panel]"));
    this.scans = [
      ...settings.cases.map((info, index) => ({ id: info.id, info, panel: panels[index], embedded: index })),
      ...settings.scans.map(({ id, file }) => ({ id, file })),
    ];
    this.views = [this.makeView(box.querySelector("[data-panes]"))];
    this.connect();
  }

  /** Return a view that moves together with the other views. */
  makeView(host) {
    const view = new SliceView(host, this.settings.colors, {
      onMove: (position) => {
        for (const other of this.shownViews()) if (other !== view) other.moveTo(position);
        this.report(position);
      },
      onZoom: (steps) => this.zoomBy(steps),
      onWindow: (black, white) => this.setWindow(black, white),
    });
    const enlarge = view.enlarge.bind(view);
    view.enlarge = (pane) => {
      enlarge(pane);
      for (const other of this.views) {
        if (other !== view) SliceView.prototype.enlarge.call(other, other.panes[view.panes.indexOf(pane)]);
      }
    };
    return view;
  }

  /** The views of the scan: one, or two if the scan has several systems. */
  shownViews() {
    return this.isPair ? this.views : this.views.slice(0, 1);
  }

  connect() {
    this.tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => this.showCase(index).catch((error) => this.fail(error)));
      tab.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        const next = (index + by + this.tabs.length) % this.tabs.length;
        this.tabs[next].focus();
        this.showCase(next);
      });
    });
    for (const link of document.querySelectorAll("[data-show-case]")) {
      link.addEventListener("click", () => this.open(link.dataset.showCase));
    }
    if (this.chooser) this.chooser.addEventListener("change", () => this.chooser.value && this.open(this.chooser.value));
    this.sides.forEach((field) => field.addEventListener("change", () => this.loadViews()));
    this.connectRows(this.box);
    for (const field of this.box.querySelectorAll("[data-layer]")) {
      field.addEventListener("change", () => {
        for (const view of this.views) view.setLayer(field.dataset.layer, field.checked);
      });
    }
    this.controls.zoom.addEventListener("input", () => this.setZoom(Number(this.controls.zoom.value)));
    for (const name of ["black", "white"]) this.controls[name].addEventListener("input", () => this.applyWindow());
    this.box.querySelector("[data-action=local-window]").addEventListener("click", () => this.setWindow(...this.views[0].localWindow()));
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

  connectRows(part) {
    for (const row of part.querySelectorAll("[data-point]")) row.addEventListener("click", () => this.showLesion(row));
  }

  /** Show a scan by its name. In a comparison, the file of the scan has all systems, so it comes first. */
  open(id) {
    const inFile = this.scans.findIndex((scan) => scan.id === id && scan.file);
    const index = inFile >= 0 ? inFile : this.scans.findIndex((scan) => scan.id === id);
    return this.showCase(index).catch((error) => this.fail(error));
  }

  fail(error) {
    this.note.textContent = `This scan cannot be shown (${error.message}).`;
    this.box.dataset.failed = "";
  }

  /** Return the voxels of a scan; of a scan in a file, also read its data and its table of lesions. */
  async read(scan) {
    if (scan.volumes) return scan.volumes;
    let texts = {};
    if (scan.file) {
      const content = await loadScan(scan.file);
      if (content.info.id !== scan.id) throw new Error(`${scan.file} belongs to another report`);
      scan.info = content.info;
      texts = content.volumes;
      if (!scan.panel) {
        scan.panel = document.createElement("div");
        scan.panel.setAttribute("role", "tabpanel");
        scan.panel.dataset.panel = "";
        scan.panel.hidden = true;
        scan.panel.innerHTML = content.panel;
        this.box.querySelector(".panels").append(scan.panel);
        this.connectRows(scan.panel);
        connectTables(scan.panel);
      }
    } else {
      for (const name of Object.keys(scan.info.layers)) {
        texts[name] = document.getElementById(`volume-${scan.embedded}-${name}`).textContent;
      }
    }
    const volumes = {};
    for (const [name, type] of Object.entries(scan.info.layers)) volumes[name] = await unpack(texts[name], type);
    const loaded = this.scans.filter((other) => other.volumes);
    if (loaded.length >= MAX_LOADED) delete loaded.find((other) => other !== this.current).volumes;
    scan.volumes = volumes;
    return volumes;
  }

  async showCase(index) {
    this.box.dataset.ready = "";
    delete this.box.dataset.failed;
    this.note.textContent = "";
    const scan = this.scans[index];
    this.wanted = scan;
    this.tabs.forEach((tab, place) => {
      tab.setAttribute("aria-selected", String(place === index));
      tab.tabIndex = place === index || (index >= this.tabs.length && place === 0) ? 0 : -1;
    });
    if (this.chooser) this.chooser.value = scan.file ? scan.id : "";
    await this.read(scan);
    if (this.wanted !== scan) return; // the reader has chosen another scan meanwhile
    this.current = scan;
    for (const other of this.scans) if (other.panel) other.panel.hidden = other !== scan;
    const names = Object.keys(scan.info.layers);
    for (const field of this.box.querySelectorAll("[data-layer]")) {
      const { layer } = field.dataset;
      const boxes = (scan.info.systems || [scan.info]).some((system) => system.boxes.length > 0);
      const exists = layer === "boxes" ? boxes : names.some((name) => name.startsWith(layer));
      field.disabled = !exists;
      field.closest("label").classList.toggle("absent", !exists);
    }
    this.showPresets(scan.info.presets);
    this.showSides(scan.info.systems || []);
    this.loadViews();
    this.applyWindow();
    const first = scan.panel.querySelector("[data-point]");
    if (first) {
      this.showLesion(first);
    } else {
      this.setZoom(1);
      this.moveTo(scan.info.shape.map((size) => size / 2));
    }
    this.box.dataset.ready = String(index);
  }

  /** Offer the systems of a scan for the left and for the right side. */
  showSides(systems) {
    this.isPair = systems.length > 1;
    this.box.classList.toggle("compare", this.isPair);
    this.sides.forEach((field, side) => {
      const kept = systems.some((system) => system.name === field.value) ? field.value : null;
      field.replaceChildren(...systems.map(({ name }) => new Option(name, name)));
      if (this.isPair) field.value = kept === null ? systems[side].name : kept;
      field.closest("label").hidden = !this.isPair;
    });
    this.box.querySelectorAll(".side")[1].hidden = !this.isPair;
    if (this.isPair && this.views.length < 2) {
      const view = this.makeView(this.box.querySelector("[data-second-panes]"));
      const { layers, zoom } = this.views[0];
      Object.assign(view, { layers: { ...layers }, zoom });
      this.views.push(view);
    }
  }

  /** Load the chosen system into each view, at the same position as before. */
  loadViews() {
    const { info, volumes, panel } = this.current;
    const position = this.loadedScan === this.current ? this.views[0].position : null;
    this.loadedScan = this.current;
    this.shownViews().forEach((view, side) => {
      const system = this.isPair ? info.systems.find(({ name }) => name === this.sides[side].value) : null;
      const prediction = system ? volumes[system.layer] : volumes.prediction;
      view.load(system ? { ...info, boxes: system.boxes } : info, { image: volumes.image, truth: volumes.truth, prediction });
      if (position) view.moveTo(position);
    });
    if (!this.isPair) return;
    const chosen = this.sides.map((field) => info.systems.findIndex(({ name }) => name === field.value));
    for (const table of panel.querySelectorAll("[data-system]")) {
      table.hidden = !chosen.includes(Number(table.dataset.system));
      table.style.order = chosen.indexOf(Number(table.dataset.system));
    }
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
    for (const view of this.views) view.setZoom(Number(this.controls.zoom.value)); // the slider has limited the value
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
    for (const view of this.views) view.setWindow(black, Math.max(Number(this.controls.white.value), black + 1));
  }

  reset() {
    this.setWindow(0, 255);
    this.setZoom(1);
    this.moveTo(this.current.info.shape.map((size) => size / 2));
  }

  moveTo(position) {
    for (const view of this.shownViews()) view.moveTo(position);
    this.report(position);
  }

  /** State the position of the crosshair as a voxel of the image file, and the intensity of this voxel. */
  report(position) {
    const { info } = this.current;
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
    const level = this.views[0].level();
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
