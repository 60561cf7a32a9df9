// One scan whose lesions have the numbers of the instance map, each with its own colour.

const LESION_LINE = 1.8; // width of the outlines in pixels
const CURRENT_LINE = 3; // width of the outline of the chosen lesion

/** The slices of a scan. Each lesion has its colour and its number. */
class NumberedScan extends SliceView {
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
