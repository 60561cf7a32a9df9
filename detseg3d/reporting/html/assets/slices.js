// The pictures of the viewer: an axial, a coronal and a sagittal slice, and a map of all lesions, drawn on canvases.
//
// A position is [z, y, x] in voxel edges: voxel i reaches from i to i + 1. The axes point to the head, to the back and
// to the left of the patient. An axial slice is therefore drawn as it is stored. Coronal and sagittal slices are
// flipped vertically.

const PLANES = [
  { name: "axial", axis: 0, row: 1, column: 2, up: false, letters: ["A", "P", "R", "L"] },
  { name: "coronal", axis: 1, row: 0, column: 2, up: true, letters: ["S", "I", "R", "L"] },
  { name: "sagittal", axis: 2, row: 0, column: 1, up: true, letters: ["S", "I", "A", "P"] },
];
const MAP = { name: "all lesions", axis: 1, row: 0, column: 2, up: true, letters: ["S", "I", "R", "L"] };
const CROSSHAIR = "rgba(255,255,255,0.65)";
const SCALE_LENGTHS = [1, 2, 5, 10, 20, 50, 100]; // millimetres
const MAX_SCALE_WIDTH = 0.3; // fraction of the width of a pane
const SMOOTH_BELOW = 4; // pixels per voxel; larger voxels are drawn as blocks, so that their edges are visible
const MIN_LOCAL_RADIUS = 16; // voxels of the finest axis
const LOCAL_FRACTIONS = [0.005, 0.995]; // fractions of the voxels of an area that are black and not yet white
const MIN_LOCAL_WIDTH = 77; // grey levels: a narrower window would show mainly noise

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Return the voxels of one slice, in rows from the top of the picture to its bottom. */
function sliceOf(volume, shape, plane, index) {
  const rows = shape[plane.row];
  const columns = shape[plane.column];
  const strides = [shape[1] * shape[2], shape[2], 1];
  const data = new volume.constructor(rows * columns);
  for (let r = 0; r < rows; r += 1) {
    const row = plane.up ? rows - 1 - r : r;
    let from = index * strides[plane.axis] + row * strides[plane.row];
    for (let c = 0; c < columns; c += 1, from += strides[plane.column]) data[r * columns + c] = volume[from];
  }
  return { data, rows, columns };
}

/** Return the outlines of all labels of a slice. They follow the edges of the voxels, also between touching labels. */
function outlinePath(slice) {
  const path = new Path2D();
  const { data, rows, columns } = slice;
  const at = (r, c) => (r < 0 || c < 0 || r >= rows || c >= columns ? 0 : data[r * columns + c]);
  for (let r = 0; r < rows; r += 1) {
    for (let c = 0; c < columns; c += 1) {
      const here = at(r, c);
      if (here !== at(r, c - 1)) addLine(path, c, r, c, r + 1);
      if (here !== at(r - 1, c)) addLine(path, c, r, c + 1, r);
      if (here && c === columns - 1) addLine(path, c + 1, r, c + 1, r + 1);
      if (here && r === rows - 1) addLine(path, c, r + 1, c + 1, r + 1);
    }
  }
  return path;
}

function addLine(path, x0, y0, x1, y1) {
  path.moveTo(x0, y0);
  path.lineTo(x1, y1);
}

/** Return voxels. They are numbers of 8 or 16 bits, little-endian, compressed with gzip, as text in base64. */
async function unpack(text, type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return type === "uint8" ? new Uint8Array(buffer) : new Uint16Array(buffer);
}

class SliceView {
  /** The view calls onMove, onZoom and onWindow with the new value when the user changes it in a picture. */
  constructor(host, colors, { onMove, onZoom, onWindow }) {
    this.host = host;
    this.colors = colors;
    this.onMove = onMove;
    this.onZoom = onZoom;
    this.onWindow = onWindow;
    this.layers = { truth: true, prediction: true, boxes: true };
    this.zoom = 1;
    this.window = [0, 255];
    this.panes = [...PLANES, MAP].map((plane) => this.makePane(plane));
    host.replaceChildren(...this.panes.map((pane) => pane.box));
    new ResizeObserver(() => this.draw()).observe(host);
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
      canvas.setAttribute("aria-label", "map of all lesions, seen from the front");
    } else {
      canvas.setAttribute("aria-label", `${plane.name} slice; arrow keys move the crosshair, page keys change the slice`);
      pane.slider = document.createElement("input");
      pane.slider.type = "range";
      pane.slider.setAttribute("aria-label", `${plane.name} slice`);
      pane.slider.min = 0;
      pane.slider.addEventListener("input", () => this.setSlice(plane.axis, Number(pane.slider.value)));
      box.append(pane.slider);
    }
    this.connect(pane);
    return pane;
  }

  /** Show a case. Each volume is a flat array in which x runs fastest. */
  load(info, volumes) {
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

  /** Return the grey level of the voxel under the crosshair. */
  level() {
    const [z, y, x] = this.position.map(Math.floor);
    return this.volumes.image[(z * this.info.shape[1] + y) * this.info.shape[2] + x];
  }

  /** Return a window for the area around the crosshair: nearly its darkest and nearly its brightest grey level. */
  localWindow() {
    const { shape, spacing } = this.info;
    const radius = MIN_LOCAL_RADIUS * Math.min(...spacing);
    const low = this.position.map((value, axis) => clamp(Math.floor(value - radius / spacing[axis]), 0, shape[axis] - 1));
    const high = this.position.map((value, axis) => clamp(Math.ceil(value + radius / spacing[axis]), 1, shape[axis]));
    const counts = new Array(256).fill(0);
    let total = 0;
    for (let z = low[0]; z < high[0]; z += 1) {
      for (let y = low[1]; y < high[1]; y += 1) {
        for (let x = low[2]; x < high[2]; x += 1) {
          counts[this.volumes.image[(z * shape[1] + y) * shape[2] + x]] += 1;
          total += 1;
        }
      }
    }
    const levelAt = (fraction) => {
      let below = 0;
      return counts.findIndex((count) => {
        below += count;
        return below >= fraction * total;
      });
    };
    const [black, white] = LOCAL_FRACTIONS.map(levelAt);
    const missing = Math.max(MIN_LOCAL_WIDTH - (white - black), 0) / 2;
    return [Math.max(Math.floor(black - missing), 0), Math.min(Math.ceil(white + missing), 255)];
  }

  // -- Input -----------------------------------------------------------------------------------------------------

  connect(pane) {
    const { canvas, plane } = pane;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true }); // else the page would move under the pointer
      canvas.setPointerCapture(event.pointerId);
      pane.drag = { x: event.clientX, y: event.clientY, window: this.window };
      if (event.button === 0) this.pointAt(event, pane);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.pointAt(event, pane);
      if (event.buttons & 2 && pane.drag) this.dragWindow(event, pane.drag);
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.enlarge(pane));
    if (plane !== MAP) canvas.addEventListener("keydown", (event) => this.onKey(event, plane));
    canvas.addEventListener(
      "wheel",
      (event) => {
        // Without these conditions, the reader could not scroll the page if the pointer is on a picture.
        if (event.ctrlKey || event.metaKey) {
          event.preventDefault();
          this.onZoom(event.deltaY < 0 ? 1 : -1);
        } else if (plane !== MAP && document.activeElement === canvas) {
          event.preventDefault();
          this.step(plane.axis, Math.sign(event.deltaY));
        }
      },
      { passive: false },
    );
  }

  /** Show one pane in place of all four, or all four again. */
  enlarge(pane) {
    const alone = this.host.classList.toggle("single");
    for (const other of this.panes) other.box.hidden = alone && other !== pane;
    this.draw();
  }

  step(axis, by) {
    const position = [...this.position];
    position[axis] = Math.floor(position[axis]) + 0.5 + by;
    this.moveTo(position);
    this.onMove(this.position);
  }

  setSlice(axis, index) {
    const position = [...this.position];
    position[axis] = index + 0.5;
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

  pointAt(event, pane) {
    const frame = this.frame(pane);
    const canvas = pane.canvas.getBoundingClientRect();
    const { plane } = pane;
    const column = (event.clientX - canvas.left - frame.left) / frame.column;
    let row = (event.clientY - canvas.top - frame.top) / frame.row;
    if (plane.up) row = this.info.shape[plane.row] - row;
    const position = [...this.position];
    position[plane.column] = column;
    position[plane.row] = row;
    if (plane === MAP) {
      // The map has no depth. If there is a lesion under the pointer, go to the foremost lesion.
      const z = clamp(Math.floor(row), 0, this.info.shape[0] - 1);
      const x = clamp(Math.floor(column), 0, this.info.shape[2] - 1);
      const depth = this.map.depth[z * this.info.shape[2] + x];
      if (depth >= 0) position[1] = depth + 0.5;
    }
    this.moveTo(position);
    this.onMove(this.position);
  }

  /** Change the window: dragging to the right widens it, and dragging down makes the picture brighter. */
  dragWindow(event, start) {
    const [black, white] = start.window;
    const width = Math.max(white - black + (event.clientX - start.x), 2);
    const level = (black + white) / 2 - (event.clientY - start.y) / 2;
    this.onWindow(Math.round(level - width / 2), Math.round(level + width / 2));
  }

  // -- Drawing ---------------------------------------------------------------------------------------------------

  /** Return the place of the slice in a pane: pixels per row and per column, and the corner. */
  frame(pane) {
    const { shape, spacing } = this.info;
    const width = pane.canvas.clientWidth;
    const height = pane.canvas.clientHeight;
    // All planes have the same scale, so that a lesion has the same size in all planes.
    const fits = PLANES.map((p) => Math.min(width / (shape[p.column] * spacing[p.column]), height / (shape[p.row] * spacing[p.row])));
    const scale = Math.min(...fits) * (pane.plane === MAP ? 1 : this.zoom);
    const row = scale * spacing[pane.plane.row];
    const column = scale * spacing[pane.plane.column];
    // A slice that is larger than its pane is shifted until the crosshair is in the middle.
    const corner = (axis, length, extent, mirrored) => {
      if (extent <= length) return (length - extent) / 2;
      const fraction = this.position[axis] / shape[axis];
      return clamp(length / 2 - (mirrored ? 1 - fraction : fraction) * extent, length - extent, 0);
    };
    return {
      scale,
      row,
      column,
      left: corner(pane.plane.column, width, column * shape[pane.plane.column], false),
      top: corner(pane.plane.row, height, row * shape[pane.plane.row], pane.plane.up),
    };
  }

  draw() {
    if (!this.volumes) return;
    for (const pane of this.panes) if (!pane.box.hidden) this.drawPane(pane);
  }

  drawPane(pane) {
    const { canvas, plane } = pane;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    const context = canvas.getContext("2d");
    const frame = this.frame(pane);
    const index = Math.floor(this.position[plane.axis]);
    const isMap = plane === MAP;
    context.setTransform(ratio * frame.column, 0, 0, ratio * frame.row, ratio * frame.left, ratio * frame.top);
    context.imageSmoothingEnabled = frame.column < SMOOTH_BELOW;
    const image = isMap ? this.map.image : sliceOf(this.volumes.image, this.info.shape, plane, index);
    context.drawImage(this.greyPicture(image, isMap ? [0, 255] : this.window), 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawOutlines(context, pane, frame, index);
    if (!isMap && this.layers.boxes) this.drawBoxes(context, plane, frame);
    this.drawCrosshair(context, pane, frame);
    this.drawLetters(context, pane);
    if (!isMap) this.drawScale(context, pane, frame);
    if (pane.slider) pane.slider.value = index;
    pane.caption.textContent = isMap ? plane.name : `${plane.name} ${index + 1} of ${this.info.shape[plane.axis]}`;
  }

  /** Draw the outlines of the lesions on a slice. A subclass may draw them differently. */
  drawOutlines(context, pane, frame, index) {
    // The truth is drawn first and thicker. Both lines remain visible where they coincide.
    for (const [name, width] of [["truth", 2.6], ["prediction", 1.4]]) {
      if (!this.volumes[name] || !this.layers[name]) continue;
      this.strokeOutline(context, this.labelSlice(name, pane, index), frame, this.colors[name], width);
    }
  }

  /** Return the labels of a layer that a pane shows. */
  labelSlice(name, pane, index) {
    return pane.plane === MAP ? this.map[name] : sliceOf(this.volumes[name], this.info.shape, pane.plane, index);
  }

  strokeOutline(context, slice, frame, color, width) {
    const path = new Path2D();
    path.addPath(outlinePath(slice), new DOMMatrix([frame.column, 0, 0, frame.row, frame.left, frame.top]));
    context.strokeStyle = color;
    context.lineWidth = width;
    context.lineCap = "square";
    context.stroke(path);
  }

  greyPicture(slice, [black, white]) {
    const picture = new OffscreenCanvas(slice.columns, slice.rows);
    const pixels = new ImageData(slice.columns, slice.rows);
    const factor = 255 / Math.max(white - black, 1);
    for (let i = 0; i < slice.data.length; i += 1) {
      const grey = (slice.data[i] - black) * factor; // ImageData limits the value to 0 … 255
      pixels.data.fill(grey, 4 * i, 4 * i + 3);
      pixels.data[4 * i + 3] = 255;
    }
    picture.getContext("2d").putImageData(pixels, 0, 0);
    return picture;
  }

  /** Return the pixel of a pane at a position. */
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
    const gap = 9; // pixels: the lines must not cover the voxel under the crosshair
    context.strokeStyle = CROSSHAIR;
    context.lineWidth = 1;
    context.beginPath();
    addLine(context, 0, y, x - gap, y);
    addLine(context, x + gap, y, width, y);
    addLine(context, x, 0, x, y - gap);
    addLine(context, x, y + gap, x, height);
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

  /** Draw a bar of a round number of millimetres in the lower left corner. */
  drawScale(context, pane, frame) {
    const { clientWidth: width, clientHeight: height } = pane.canvas;
    const fitting = SCALE_LENGTHS.filter((length) => length * frame.scale <= MAX_SCALE_WIDTH * width);
    const length = fitting.length ? fitting[fitting.length - 1] : SCALE_LENGTHS[0];
    context.strokeStyle = context.fillStyle = "rgba(255,255,255,0.75)";
    context.lineWidth = 1.5;
    context.beginPath();
    addLine(context, 20, height - 8, 20 + length * frame.scale, height - 8);
    context.stroke();
    context.font = "11px system-ui, sans-serif";
    context.fillText(`${length} mm`, 20, height - 13);
  }

  /** Project the volume from the front: the mean of the image, and at each place the foremost lesion. */
  project() {
    const [depth, height, width] = this.info.shape; // z, y, x
    const { image, truth, prediction } = this.volumes;
    const mean = new Float32Array(depth * width);
    const flat = { truth: truth && new truth.constructor(depth * width), prediction: prediction && new prediction.constructor(depth * width) };
    const foremost = new Int32Array(depth * width).fill(-1);
    for (let z = 0; z < depth; z += 1) {
      for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
          const from = (z * height + y) * width + x;
          const to = z * width + x;
          mean[to] += image[from] / height;
          for (const [name, volume] of [["truth", truth], ["prediction", prediction]]) {
            if (!volume || !volume[from]) continue;
            if (!flat[name][to]) flat[name][to] = volume[from];
            if (foremost[to] < 0) foremost[to] = y;
          }
        }
      }
    }
    // The scan is drawn darker, so that the outlines remain visible.
    const brightest = mean.reduce((a, b) => Math.max(a, b), 1);
    const dimmed = Uint8ClampedArray.from(mean, (value) => (value / brightest) * 150);
    const turned = (data) => data && sliceOf(data, [depth, 1, width], MAP, 0);
    return { image: turned(dimmed), truth: turned(flat.truth), prediction: turned(flat.prediction), depth: foremost };
  }
}
