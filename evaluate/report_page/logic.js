// What the page computes, without a document: tested under node as well as in a browser.

/** Round tick values within [low, high], about `count` of them. */
function niceTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const unit = 10 ** Math.floor(Math.log10(0.75 * rough));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= 0.75 * rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

/** 1, 2 and 5 times powers of ten within [low, high]; only powers for a wide range. */
function logTicks(low, high) {
  const factors = high / low > 500 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(12));
      if (value >= low && value <= high) ticks.push(value);
    }
  }
  return ticks;
}

/** Points {bpp, value, index} of a codec by rising rate, of one picture or (null) of the means. */
function pointsOf(codec, metric, picture) {
  const values = picture === null ? codec.values : codec.perPicture[picture];
  const column = values && values[metric];
  if (!column) return [];
  return values.bpp
    .map((bpp, index) => ({ bpp, value: column[index], index }))
    .filter((point) => point.bpp !== null && point.value !== null)
    .sort((a, b) => a.bpp - b.bpp);
}

/** The value of a curve at a rate, by straight lines; null outside. */
function valueAt(points, bpp) {
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    if (bpp >= a.bpp && bpp <= b.bpp) {
      return b.bpp === a.bpp ? b.value : a.value + ((b.value - a.value) * (bpp - a.bpp)) / (b.bpp - a.bpp);
    }
  }
  return null;
}

/** [low, high] of what is visible of the curves between two rates, with a margin; null if nothing is. */
function visibleRange(curves, low, high) {
  const values = [];
  for (const points of curves) {
    values.push(...points.filter((p) => p.bpp >= low && p.bpp <= high).map((p) => p.value));
    values.push(...[low, high].map((bpp) => valueAt(points, bpp)).filter((value) => value !== null));
  }
  if (!values.length) return null;
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const margin = 0.05 * (most - least) || 0.5;
  return [least - margin, most + margin];
}

/** Of marks [{x, y}], the nearest one within a distance; null if there is none. */
function nearest(marks, x, y, reach) {
  let [best, least] = [null, reach * reach];
  for (const mark of marks) {
    const square = (mark.x - x) ** 2 + (mark.y - y) ** 2;
    if (square <= least) [best, least] = [mark, square];
  }
  return best;
}

/** Rows sorted by a value; rows without one stay at the end in either direction. */
function sortRows(rows, valueOf, descending) {
  const known = rows.filter((row) => valueOf(row) !== null);
  known.sort((a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    return (typeof x === "string" ? x.localeCompare(y) : x - y) * (descending ? -1 : 1);
  });
  return [...known, ...rows.filter((row) => valueOf(row) === null)];
}

const ZOOM_STEPS = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16];

/** The zoom that shows a whole picture in a pane, both in pixels of the screen. */
function fitZoom(pane, picture) {
  return Math.min(pane.width / picture.width, pane.height / picture.height);
}

/** The next zoom step in a direction (+1, -1), no further out than `fit`. */
function nextZoom(zoom, direction, fit) {
  if (direction > 0) return ZOOM_STEPS.find((step) => step > zoom * 1.001) ?? ZOOM_STEPS.at(-1);
  const below = ZOOM_STEPS.filter((step) => step < zoom * 0.999).at(-1) ?? fit;
  return Math.max(below, fit);
}

/** A view {x, y, zoom} (the picture's point in the pane's middle) moved so that the pane is filled. */
function clampView(view, pane, picture) {
  const inside = (at, side, size) => {
    const half = side / view.zoom / 2;
    return half * 2 >= size ? size / 2 : Math.min(Math.max(at, half), size - half);
  };
  return {
    zoom: view.zoom,
    x: inside(view.x, pane.width, picture.width),
    y: inside(view.y, pane.height, picture.height),
  };
}

/** The view at another zoom that keeps the picture's point under (dx, dy) from the pane's middle. */
function zoomAbout(view, zoom, dx, dy) {
  const shift = 1 / view.zoom - 1 / zoom;
  return { zoom, x: view.x + dx * shift, y: view.y + dy * shift };
}

/** Amplified absolute difference of two RGBA arrays, opaque. */
function difference(a, b, gain) {
  const out = new Uint8ClampedArray(a.length);
  for (let i = 0; i < a.length; i += 4) {
    out[i] = gain * Math.abs(a[i] - b[i]);
    out[i + 1] = gain * Math.abs(a[i + 1] - b[i + 1]);
    out[i + 2] = gain * Math.abs(a[i + 2] - b[i + 2]);
    out[i + 3] = 255;
  }
  return out;
}

/** A number with so many digits behind the point and a real minus; a dash for null. */
function fixed(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

/** The same with a plus before positive numbers. */
function signed(value, digits) {
  const text = fixed(value, digits);
  return value > 0 ? `+${text}` : text;
}

/** Seconds in a readable unit. */
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.0995) return `${(1000 * value).toPrecision(2)} ms`;
  return value < 9.95 ? `${value.toPrecision(2)} s` : `${value.toFixed(0)} s`;
}

/** The sentence at the head of the page: the first codec against the first other that has a BD-rate. */
function headline(data) {
  const metric = data.metrics[0];
  const [first, ...others] = data.codecs;
  if (!metric || !first) return null;
  for (const other of others) {
    const delta = data.deltas[metric.key][other.name][first.name];
    if (delta.value === null) continue;
    const percent = Math.abs(delta.value).toFixed(Math.abs(delta.value) < 9.95 ? 1 : 0);
    const quality = metric.label.replace(" (dB)", "");
    const sense = delta.value < 0 ? "fewer" : "more";
    return { codec: first.name, amount: `${percent} % ${sense} bits`, other: other.name, quality };
  }
  return null;
}

if (typeof module !== "undefined") {
  module.exports = { niceTicks, logTicks, pointsOf, valueAt, visibleRange, nearest, sortRows, fitZoom,
    nextZoom, clampView, zoomAbout, difference, fixed, signed, seconds, headline };
}
