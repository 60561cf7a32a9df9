// The plain viewer: three orthogonal slices and a map of all lesions, drawn on canvases.
//
// Positions are [z, y, x] in voxel edges: voxel i covers i to i + 1. The axes run to the head, to the back and to the
// left of the patient, so an axial slice is drawn as it lies, and the other two upside down.

const PLANES = [
  { name: "axial", axis: 0, row: 1, column: 2, up: false, letters: ["A", "P", "R", "L"] },
  { name: "coronal", axis: 1, row: 0, column: 2, up: true, letters: ["H", "F", "R", "L"] },
  { name: "sagittal", axis: 2, row: 0, column: 1, up: true, letters: ["H", "F", "A", "P"] },
];
const MAP = { name: "all lesions", axis: 1, row: 0, column: 2, up: true, letters: ["H", "F", "R", "L"] };
const CROSSHAIR = "rgba(255,255,255,0.65)";
const SMOOTH_BELOW = 4; // pixels per voxel; beyond this, voxels are shown as they are

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** The voxels of one slice, rows as drawn from top to bottom. */
function sliceOf(volume, shape, plane, index) {
  const rows = shape[plane.row];
  const columns = shape[plane.column];
  const strides = [shape[1] * shape[2], shape[2], 1];
  const out = new volume.constructor(rows * columns);
  for (let r = 0; r < rows; r += 1) {
    const row = plane.up ? rows - 1 - r : r;
    let from = index * strides[plane.axis] + row * strides[plane.row];
    for (let c = 0; c < columns; c += 1, from += strides[plane.column]) out[r * columns + c] = volume[from];
  }
  return { data: out, rows, columns };
}

/** The outlines of all labels of a slice, along the edges of its voxels, also between labels that touch. */
function outlinePath(slice) {
  const path = new Path2D();
  const { data, rows, columns } = slice;
  const at = (r, c) => (r < 0 || c < 0 || r >= rows || c >= columns ? 0 : data[r * columns + c]);
  for (let r = 0; r < rows; r += 1) {
    for (let c = 0; c < columns; c += 1) {
      const here = at(r, c);
      const left = at(r, c - 1);
      const above = at(r - 1, c);
      if (here !== left) line(path, c, r, c, r + 1);
      if (here !== above) line(path, c, r, c + 1, r);
      if (here && c === columns - 1) line(path, c + 1, r, c + 1, r + 1);
      if (here && r === rows - 1) line(path, c, r + 1, c + 1, r + 1);
    }
  }
  return path;
}

function line(path, x0, y0, x1, y1) {
  path.moveTo(x0, y0);
  path.lineTo(x1, y1);
}

class SliceView {
  /** onMove is called with the new position whenever the user moves the crosshair. */
  constructor(host, colors, onMove) {
    this.host = host;
    this.colors = colors;
    this.onMove = onMove;
    this.layers = { truth: true, prediction: true, boxes: true };
    this.zoom = 1;
    this.window = [0, 255];
    this.panes = [...PLANES, MAP].map((plane) => this.makePane(plane));
    host.replaceChildren(...this.panes.map((pane) => pane.box));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(host);
  }

  makePane(plane) {
    const box = document.createElement("div");
    box.className = "pane";
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    const caption = document.createElement("span");
    caption.className = "caption";
    box.append(canvas, caption);
    const pane = { plane, box, canvas, caption, slider: null };
    if (plane === MAP) {
      canvas.setAttribute("aria-label", "map of all lesions");
    } else {
      canvas.setAttribute("aria-label", `${plane.name} slice; arrow keys move the crosshair, page keys the slice`);
      pane.slider = document.createElement("input");
      pane.slider.type = "range";
      pane.slider.setAttribute("aria-label", `${plane.name} slice`);
      pane.slider.min = 0;
      pane.slider.addEventListener("input", () => this.step(plane.axis, Number(pane.slider.value) + 0.5, true));
      box.append(pane.slider);
      canvas.addEventListener("keydown", (event) => this.onKey(event, plane));
      canvas.addEventListener(
        "wheel",
        (event) => {
          if (document.activeElement !== canvas) return; // else the page could not be scrolled past the pictures
          event.preventDefault();
          this.step(plane.axis, Math.sign(event.deltaY));
        },
        { passive: false },
      );
    }
    const point = (event) => this.onPointer(event, pane);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true }); // else the page would move under the pointer
      canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) point(event);
    });
    return pane;
  }

  /** Show a case: volumes are flat arrays, x fastest. */
  async load(info, volumes) {
    this.info = info;
    this.volumes = volumes;
    this.map = this.project();
    this.position = info.shape.map((size) => size / 2);
    for (const pane of this.panes) if (pane.slider) pane.slider.max = info.shape[pane.plane.axis] - 1;
    this.draw();
  }

  moveTo(position) {
    this.position = position.map((value, axis) => clamp(value, 0, this.info.shape[axis] - 1e-3));
    this.draw();
  }

  setLayer(name, on) {
    this.layers[name] = on;
    this.draw();
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.draw();
  }

  setWindow(black, white) {
    this.window = [black, white];
    this.draw();
  }

  remove() {
    this.observer.disconnect();
    this.host.replaceChildren();
  }

  // -- Input -----------------------------------------------------------------------------------------------------

  step(axis, by, absolute = false) {
    const position = [...this.position];
    position[axis] = absolute ? by : Math.floor(position[axis]) + 0.5 + by;
    this.moveTo(position);
    this.onMove(this.position);
  }

  onKey(event, plane) {
    const down = plane.up ? -1 : 1;
    const moves = {
      ArrowLeft: [plane.column, -1],
      ArrowRight: [plane.column, 1],
      ArrowUp: [plane.row, -down],
      ArrowDown: [plane.row, down],
      PageUp: [plane.axis, 1],
      PageDown: [plane.axis, -1],
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    this.step(...moves[event.key]);
  }

  onPointer(event, pane) {
    const frame = this.frame(pane);
    const place = pane.canvas.getBoundingClientRect();
    const { plane } = pane;
    const column = (event.clientX - place.left - frame.left) / frame.column;
    let row = (event.clientY - place.top - frame.top) / frame.row;
    if (plane.up) row = this.info.shape[plane.row] - row;
    const position = [...this.position];
    position[plane.column] = column;
    position[plane.row] = row;
    if (plane === MAP) {
      // The map has no depth: the lesion in front, if there is one.
      const z = clamp(Math.floor(row), 0, this.info.shape[0] - 1);
      const x = clamp(Math.floor(column), 0, this.info.shape[2] - 1);
      const depth = this.map.depth[z * this.info.shape[2] + x];
      if (depth >= 0) position[1] = depth + 0.5;
    }
    this.moveTo(position);
    this.onMove(this.position);
  }

  // -- Drawing ---------------------------------------------------------------------------------------------------

  /** Where a pane's slice lies: pixels per row and column, and the place of its corner. */
  frame(pane) {
    const { shape, spacing } = this.info;
    const width = pane.canvas.clientWidth;
    const height = pane.canvas.clientHeight;
    // One scale for all planes, so that a lesion is equally large in each.
    const fits = PLANES.map((p) => Math.min(width / (shape[p.column] * spacing[p.column]), height / (shape[p.row] * spacing[p.row])));
    const isMap = pane.plane === MAP;
    const scale = Math.min(...fits) * (isMap ? 1 : this.zoom);
    const row = scale * spacing[pane.plane.row];
    const column = scale * spacing[pane.plane.column];
    const center = (axis, length, extent, mirrored) => {
      if (extent <= length) return (length - extent) / 2;
      const share = this.position[axis] / shape[axis];
      return clamp(length / 2 - (mirrored ? 1 - share : share) * extent, length - extent, 0);
    };
    return {
      row,
      column,
      left: center(pane.plane.column, width, column * shape[pane.plane.column], false),
      top: center(pane.plane.row, height, row * shape[pane.plane.row], pane.plane.up),
    };
  }

  draw() {
    if (!this.volumes) return;
    for (const pane of this.panes) this.drawPane(pane);
  }

  drawPane(pane) {
    const { plane, canvas } = pane;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    const context = canvas.getContext("2d");
    const frame = this.frame(pane);
    const index = Math.floor(this.position[plane.axis]);
    const toSlice = () => context.setTransform(ratio * frame.column, 0, 0, ratio * frame.row, ratio * frame.left, ratio * frame.top);
    toSlice();
    context.imageSmoothingEnabled = frame.column < SMOOTH_BELOW;
    const image = plane === MAP ? this.map.image : sliceOf(this.volumes.image, this.info.shape, plane, index);
    context.drawImage(this.greyPicture(image, plane === MAP), 0, 0);
    for (const [name, width] of [["truth", 2.6], ["prediction", 1.4]]) {
      if (!this.volumes[name] || !this.layers[name]) continue;
      const slice = plane === MAP ? this.map[name] : sliceOf(this.volumes[name], this.info.shape, plane, index);
      toSlice();
      const path = new Path2D();
      path.addPath(outlinePath(slice), new DOMMatrix([frame.column, 0, 0, frame.row, frame.left, frame.top]));
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.strokeStyle = this.colors[name];
      context.lineWidth = width;
      context.lineCap = "square";
      context.stroke(path);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (plane !== MAP && this.layers.boxes) this.drawBoxes(context, plane, frame);
    this.drawCrosshair(context, pane, frame);
    this.drawLetters(context, pane);
    if (pane.slider) pane.slider.value = index;
    pane.caption.textContent = plane === MAP ? plane.name : `${plane.name} ${index + 1} of ${this.info.shape[plane.axis]}`;
  }

  greyPicture(slice, plain) {
    const [black, white] = plain ? [0, 255] : this.window;
    const picture = new OffscreenCanvas(slice.columns, slice.rows);
    const pixels = new ImageData(slice.columns, slice.rows);
    const factor = 255 / Math.max(white - black, 1);
    for (let i = 0; i < slice.data.length; i += 1) {
      const grey = (slice.data[i] - black) * factor; // clamped by the array
      pixels.data[4 * i] = grey;
      pixels.data[4 * i + 1] = grey;
      pixels.data[4 * i + 2] = grey;
      pixels.data[4 * i + 3] = 255;
    }
    picture.getContext("2d").putImageData(pixels, 0, 0);
    return picture;
  }

  /** From an edge position to a pixel of a pane. */
  pixel(plane, frame, position) {
    const row = plane.up ? this.info.shape[plane.row] - position[plane.row] : position[plane.row];
    return [frame.left + position[plane.column] * frame.column, frame.top + row * frame.row];
  }

  drawBoxes(context, plane, frame) {
    context.strokeStyle = this.colors.boxes;
    context.fillStyle = this.colors.boxes;
    context.lineWidth = 1.2;
    context.font = "11px system-ui, sans-serif";
    context.setLineDash([4, 3]);
    for (const { box, label } of this.info.boxes) {
      const at = this.position[plane.axis];
      if (at < box[plane.axis] || at >= box[plane.axis + 3]) continue;
      const [x0, y0] = this.pixel(plane, frame, box.slice(0, 3));
      const [x1, y1] = this.pixel(plane, frame, box.slice(3));
      context.strokeRect(x0, Math.min(y0, y1), x1 - x0, Math.abs(y1 - y0));
      context.fillText(label, x0, Math.min(y0, y1) - 3);
    }
    context.setLineDash([]);
  }

  drawCrosshair(context, pane, frame) {
    const [x, y] = this.pixel(pane.plane, frame, this.position);
    const { clientWidth: width, clientHeight: height } = pane.canvas;
    const gap = 9; // what is in the middle must not be covered
    context.strokeStyle = CROSSHAIR;
    context.lineWidth = 1;
    context.beginPath();
    line(context, 0, y, x - gap, y);
    line(context, x + gap, y, width, y);
    line(context, x, 0, x, y - gap);
    line(context, x, y + gap, x, height);
    context.stroke();
  }

  drawLetters(context, pane) {
    const { clientWidth: width, clientHeight: height } = pane.canvas;
    const [top, bottom, left, right] = pane.plane.letters;
    context.font = "600 12px system-ui, sans-serif";
    context.fillStyle = "rgba(255,255,255,0.75)";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(top, width / 2, 10);
    context.fillText(bottom, width / 2, height - 10);
    context.fillText(left, 9, height / 2);
    context.fillText(right, width - 9, height / 2);
    context.textAlign = "start";
    context.textBaseline = "alphabetic";
  }

  /** The whole volume from the front: mean of the image, and for each place the first lesion on the way. */
  project() {
    const [depth, height, width] = this.info.shape; // z, y, x
    const { image, truth, prediction } = this.volumes;
    const mean = new Float32Array(depth * width);
    const flat = { truth: truth && new truth.constructor(depth * width), prediction: prediction && new prediction.constructor(depth * width) };
    const front = new Int32Array(depth * width).fill(-1);
    for (let z = 0; z < depth; z += 1) {
      for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
          const from = (z * height + y) * width + x;
          const to = z * width + x;
          mean[to] += image[from] / height;
          for (const [name, volume] of [["truth", truth], ["prediction", prediction]]) {
            if (!volume || !volume[from]) continue;
            if (!flat[name][to]) flat[name][to] = volume[from];
            if (front[to] < 0) front[to] = y;
          }
        }
      }
    }
    const brightest = mean.reduce((a, b) => Math.max(a, b), 1);
    const dimmed = Uint8ClampedArray.from(mean, (value) => (value / brightest) * 150);
    const turned = (data) => data && sliceOf(data, [depth, 1, width], MAP, 0);
    return { image: turned(dimmed), truth: turned(flat.truth), prediction: turned(flat.prediction), depth: front };
  }
}
