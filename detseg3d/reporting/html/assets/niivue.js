// The same viewer with NiiVue, which also renders in 3D. Its code is in the page, compressed; nothing is fetched.

/** NiiVue's class, from the code in the page. */
async function loadNiivue(kind, code) {
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  try {
    if (kind === "module") return (await import(url)).Niivue;
    await new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = () => reject(new Error("its script does not run"));
      document.head.append(script);
    });
    return window.niivue.Niivue;
  } finally {
    URL.revokeObjectURL(url);
  }
}

function hasWebgl2() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

/** A colour table that gives every label the same colour. */
function oneColor(hex, count) {
  const parts = [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
  const [R, G, B] = parts.map((value) => [0, ...new Array(count).fill(value)]);
  return { R, G, B, A: [0, ...new Array(count).fill(255)], I: Array.from({ length: count + 1 }, (_, i) => i) };
}

class NiivueView {
  constructor(host, colors, onMove, Niivue) {
    this.host = host;
    this.colors = colors;
    this.onMove = onMove;
    this.layers = { truth: true, prediction: true, boxes: true };
    this.zoom = 1;
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-label", "axial, coronal and sagittal slice, and a rendering");
    const box = document.createElement("div");
    box.className = "niivue-box";
    box.append(canvas);
    host.replaceChildren(box);
    this.nv = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 1, 1, 0.65],
      crosshairWidthUnit: "percent",
      fontColor: [0.9, 0.9, 0.9, 1],
      isRadiologicalConvention: true,
      multiplanarForceRender: true,
      multiplanarShowRender: 1,
      multiplanarLayout: 2, // a grid, so that the rendering has its place
      multiplanarEqualSize: true,
      isNearestInterpolation: false,
      dragAndDropEnabled: false,
      loadingText: "",
      logLevel: "error",
      show3Dcrosshair: true,
    });
    this.ready = this.nv.attachToCanvas(canvas);
    this.ready.catch(() => {}); // load() waits for it, and tells
    this.nv.onLocationChange = (location) => this.onLocation(location);
  }

  async load(info, volumes, files) {
    await this.ready;
    this.info = info;
    this.quiet = true;
    for (const volume of [...this.nv.volumes].reverse()) this.nv.removeVolume(volume);
    this.index = {};
    const boxes = boxFile(info, files.image);
    for (const [name, file] of Object.entries({ ...files, boxes })) {
      if (!file) continue;
      await this.nv.loadFromArrayBuffer(file.slice(0), `${name}.nii`);
      this.index[name] = this.nv.volumes.length - 1;
      const volume = this.nv.volumes[this.index[name]];
      if (name === "image") {
        volume.cal_min = 0;
        volume.cal_max = 255;
      } else {
        volume.setColormapLabel(oneColor(this.colors[name], name === "boxes" ? info.boxes.length : volumes[name].reduce((a, b) => Math.max(a, b), 1)));
      }
    }
    this.nv.setSliceType(this.nv.sliceTypeMultiplanar);
    this.nv.setAtlasOutline(0.9);
    for (const name of Object.keys(this.layers)) this.setLayer(name, this.layers[name]);
    this.quiet = false;
    this.moveTo(info.shape.map((size) => size / 2));
  }

  moveTo(position) {
    this.position = position.map((value, axis) => clamp(value, 0, this.info.shape[axis] - 1e-3));
    this.quiet = true;
    this.nv.scene.crosshairPos = this.nv.mm2frac(this.millimetres(this.position));
    this.center();
    this.nv.updateGLVolume();
    this.quiet = false;
  }

  setLayer(name, on) {
    this.layers[name] = on;
    const opacity = name === "boxes" ? 0.02 : 0.3;
    if (this.index && this.index[name] !== undefined) this.nv.setOpacity(this.index[name], on ? opacity : 0);
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.center();
  }

  setWindow(black, white) {
    const [image] = this.nv.volumes;
    if (!image) return;
    image.cal_min = black;
    image.cal_max = white;
    this.nv.updateGLVolume();
  }

  remove() {
    if (this.nv.cleanup) this.nv.cleanup();
    this.host.replaceChildren();
  }

  /** Zoomed in, the crosshair is in the middle of the slices; its lines are as thin as before. */
  center() {
    if (!this.info) return;
    const at = this.millimetres(this.position);
    const middle = this.millimetres(this.info.shape.map((size) => size / 2));
    const shift = this.zoom > 1 ? middle.map((value, axis) => value - this.zoom * at[axis]) : [0, 0, 0];
    this.nv.opts.crosshairWidth = 0.4 / this.zoom;
    this.nv.opts.crosshairGap = 12 / this.zoom;
    this.nv.setPan2Dxyzmm([...shift, this.zoom]);
  }

  /** Of an edge position: [x, y, z] in the frame of the embedded files, to the right, to the front and up. */
  millimetres(position) {
    const [z, y, x] = position.map((value, axis) => (value - 0.5) * this.info.spacing[axis]);
    return [-x, -y, z];
  }

  onLocation(location) {
    if (this.quiet || !this.info) return;
    const [x, y, z] = location.mm;
    const millimetres = [z, -y, -x];
    this.position = millimetres.map((value, axis) => clamp(value / this.info.spacing[axis] + 0.5, 0, this.info.shape[axis] - 1e-3));
    this.onMove(this.position);
  }
}

/** The boxes as a file of labels on the grid of the image: NiiVue draws outlines of labels, but no boxes. */
function boxFile(info, image) {
  if (!info.boxes.length) return null;
  const file = image.slice(0);
  const header = new DataView(file);
  const offset = header.getFloat32(108, true);
  header.setInt16(68, 1002, true); // labels, by NIfTI's intent code
  const data = new Uint8Array(file, offset).fill(0);
  const [, height, width] = info.shape;
  info.boxes.forEach(({ box }, place) => {
    const low = box.slice(0, 3).map((edge) => Math.max(0, Math.floor(edge)));
    const high = box.slice(3).map((edge, axis) => Math.min(info.shape[axis], Math.ceil(edge)));
    for (let z = low[0]; z < high[0]; z += 1) {
      for (let y = low[1]; y < high[1]; y += 1) {
        data.fill((place % 255) + 1, (z * height + y) * width + low[2], (z * height + y) * width + high[2]);
      }
    }
  });
  return file;
}
