// The rate-distortion chart: SVG, redrawn as a whole whenever something changes.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 7;
const SHAPES = ["circle", "square", "up", "diamond", "down", "cross"];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function drawn(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

/** Colour, marker and dashes of codec number i. */
function lookOf(codec, i) {
  return {
    colour: `var(--c${i % COLOURS})`,
    shape: SHAPES[i % SHAPES.length],
    dashes: codec.published ? "6 4" : "",
    inside: codec.published ? "var(--panel)" : `var(--c${i % COLOURS})`,
  };
}

function marker(look, x, y, size) {
  const r = size;
  const paths = {
    circle: `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    square: `M${x - 0.9 * r} ${y - 0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
    up: `M${x} ${y - 1.1 * r}l${1.1 * r} ${2 * r}h${-2.2 * r}Z`,
    down: `M${x} ${y + 1.1 * r}l${1.1 * r} ${-2 * r}h${-2.2 * r}Z`,
    diamond: `M${x} ${y - 1.25 * r}l${1.25 * r} ${1.25 * r}l${-1.25 * r} ${1.25 * r}l${-1.25 * r} ${-1.25 * r}Z`,
    cross: `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`,
  };
  return drawn("path", { d: paths[look.shape], fill: look.inside, stroke: look.colour, "stroke-width": 1.6 });
}

function makeChart(data, byId) {
  const box = byId("chart");
  const tip = element("div", { class: "tip" });
  tip.hidden = true;
  const state = { metric: data.metrics[0].key, picture: null, range: null, log: false, hidden: new Set(), at: null };
  const margin = { left: 56, right: 14, top: 12, bottom: 46 };
  let scale = null; // x, y: value -> pixel; bpp: pixel -> rate
  let marks = [];

  /** Shown codecs with points: [{codec, look, points}]. */
  function series() {
    return data.codecs
      .map((codec, i) => ({ codec, look: lookOf(codec, i), points: pointsOf(codec, state.metric, state.picture) }))
      .filter((one) => one.points.length && !state.hidden.has(one.codec.name));
  }

  /** All rates: as far as measured curves go, since published ones may go much further. */
  function fullRange(all) {
    const own = all.filter((one) => !one.codec.published);
    const rates = (own.length ? own : all).flatMap((one) => one.points.map((point) => point.bpp));
    if (!rates.length) return [0, 1];
    return [state.log ? 0.85 * Math.min(...rates) : 0, 1.04 * Math.max(...rates)];
  }

  function draw() {
    const all = series();
    const [low, high] = state.range ?? fullRange(all);
    const from = state.log ? Math.max(low, 1e-3) : low;
    const span = visibleRange(all.map((one) => one.points), from, high) ?? [0, 1];
    const width = Math.max(box.clientWidth, 260);
    const height = Math.round(Math.min(Math.max(width * 0.56, 270), 460));
    const right = width - margin.right;
    const bottom = height - margin.bottom;
    const along = state.log ? Math.log : (value) => value;
    const back = state.log ? Math.exp : (value) => value;
    const perPixel = (along(high) - along(from)) / (right - margin.left);
    scale = {
      x: (bpp) => margin.left + (along(bpp) - along(from)) / perPixel,
      y: (value) => bottom - ((value - span[0]) / (span[1] - span[0])) * (bottom - margin.top),
      bpp: (x) => back(along(from) + (Math.min(Math.max(x, margin.left), right) - margin.left) * perPixel),
      right, bottom, range: [from, high],
    };
    const label = data.metrics.find((metric) => metric.key === state.metric).label;
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    const clip = drawn("clipPath", { id: "plot-area" },
      drawn("rect", { x: margin.left, y: margin.top - 8, width: right - margin.left + 8, height: bottom - margin.top + 16 }));
    svg.append(drawn("defs", {}, clip));
    const ticks = state.log ? logTicks(from, high) : niceTicks(from, high, width / 90);
    for (const tick of ticks) {
      const x = Math.round(scale.x(tick)) + 0.5;
      svg.append(drawn("line", { class: "grid", x1: x, x2: x, y1: margin.top, y2: bottom }),
        drawn("text", { x, y: bottom + 18, "text-anchor": "middle" }, String(tick)));
    }
    for (const tick of niceTicks(...span, height / 62)) {
      const y = Math.round(scale.y(tick)) + 0.5;
      svg.append(drawn("line", { class: "grid", x1: margin.left, x2: right, y1: y, y2: y }),
        drawn("text", { x: margin.left - 8, y: y + 4, "text-anchor": "end" }, String(tick)));
    }
    svg.append(drawn("line", { class: "axis", x1: margin.left, x2: right, y1: bottom + 0.5, y2: bottom + 0.5 }),
      drawn("text", { x: (margin.left + right) / 2, y: height - 8, "text-anchor": "middle" }, "Rate (bpp)"),
      drawn("text", { transform: `translate(14 ${(margin.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, label));
    const plot = drawn("g", { "clip-path": "url(#plot-area)" });
    marks = [];
    for (const one of [...all].reverse()) { // the first codec on top
      const path = one.points.map((p) => `${scale.x(p.bpp).toFixed(1)} ${scale.y(p.value).toFixed(1)}`).join("L");
      plot.append(drawn("path", { class: "curve", d: `M${path}`, stroke: one.look.colour, "stroke-dasharray": one.look.dashes }));
      let lastX = -Infinity;
      for (const point of one.points) {
        const mark = { ...one, point, x: scale.x(point.bpp), y: scale.y(point.value) };
        if (point.bpp < from || point.bpp > high) continue;
        marks.push(mark);
        if (one.points.length > 14 && Math.abs(mark.x - lastX) < 16) continue; // crowded: the line is enough
        plot.append(marker(one.look, mark.x, mark.y, 4));
        lastX = mark.x;
      }
    }
    plot.append(drawn("rect", { class: "brush", y: margin.top, height: bottom - margin.top, width: 0 }));
    svg.append(plot);
    box.replaceChildren(svg, tip);
    byId("from").value = Number(from.toFixed(3));
    byId("to").value = Number(high.toFixed(2));
    const found = state.at && marks.find((m) => m.codec === state.at.codec && m.point.index === state.at.point.index);
    show(found ?? null);
  }

  /** The tooltip and halo of a mark, or none. */
  function show(mark, speak = false) {
    state.at = mark;
    box.querySelector(".halo")?.remove();
    tip.hidden = !mark;
    if (!mark) return;
    const { codec, point } = mark;
    const label = data.metrics.find((metric) => metric.key === state.metric).label;
    const quality = codec.quality ? `, quality ${codec.quality[point.index]}` : "";
    const facts = `${fixed(point.bpp, 3)} bpp, ${fixed(point.value, 2)} ${label}${quality}`;
    tip.replaceChildren(element("b", {}, codec.name), facts, element("br"), element("span", {}, comparisonAt(mark)));
    box.firstChild.append(drawn("circle", { class: "halo", cx: mark.x, cy: mark.y, r: 9, stroke: mark.look.colour }));
    // Below and to the right of a rising curve there is most room.
    const left = mark.x + 16 + tip.offsetWidth <= box.clientWidth ? mark.x + 16 : mark.x - 16 - tip.offsetWidth;
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${Math.min(mark.y + 8, box.clientHeight - tip.offsetHeight - 4)}px`;
    if (speak) byId("spoken").textContent = `${codec.name}: ${facts}`;
  }

  /** What the other curves have at the same rate. */
  function comparisonAt(mark) {
    const others = series().filter((one) => one.codec !== mark.codec);
    const known = others
      .map((one) => [one.codec.name, valueAt(one.points, mark.point.bpp)])
      .filter(([, value]) => value !== null)
      .slice(0, 4)
      .map(([name, value]) => `${name} ${signed(value - mark.point.value, 2)}`);
    return known.length ? `at this rate: ${known.join(", ")}` : "";
  }

  function setRange(range) {
    state.range = range && range[1] - range[0] > 1e-3 ? range : null;
    draw();
  }

  let begin = null; // where a drag across the plot started
  box.addEventListener("pointerdown", (event) => {
    if (event.button === 0) begin = event.clientX - box.getBoundingClientRect().left;
  });
  box.addEventListener("pointermove", (event) => {
    const place = box.getBoundingClientRect();
    const [x, y] = [event.clientX - place.left, event.clientY - place.top];
    if (begin !== null && event.buttons && Math.abs(x - begin) > 6) {
      if (!box.hasPointerCapture(event.pointerId)) box.setPointerCapture(event.pointerId);
      const [left, right] = [Math.min(begin, x), Math.max(begin, x)].map((at) => scale.x(scale.bpp(at)));
      const brush = box.querySelector(".brush");
      brush.setAttribute("x", left);
      brush.setAttribute("width", right - left);
      show(null);
    } else {
      show(nearest(marks, x, y, 40));
    }
  });
  box.addEventListener("pointerup", (event) => {
    const x = event.clientX - box.getBoundingClientRect().left;
    if (begin !== null && Math.abs(x - begin) > 12) setRange([begin, x].sort((a, b) => a - b).map(scale.bpp));
    begin = null;
  });
  box.addEventListener("pointercancel", () => { begin = null; draw(); });
  box.addEventListener("pointerleave", () => show(null));
  box.addEventListener("dblclick", () => setRange(null));
  box.addEventListener("blur", () => show(null));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") setRange(null);
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || !marks.length) return;
    event.preventDefault();
    const names = series().map((one) => one.codec.name);
    const of = (name) => marks.filter((mark) => mark.codec.name === name);
    if (!state.at) return show(of(names[0])[0] ?? marks[0], true);
    const here = of(state.at.codec.name);
    if (step[0]) {
      const i = here.findIndex((mark) => mark.point.index === state.at.point.index) + step[0];
      return show(here[Math.min(Math.max(i, 0), here.length - 1)], true);
    }
    const next = names[(names.indexOf(state.at.codec.name) + step[1] + names.length) % names.length];
    show([...of(next)].sort((a, b) => Math.abs(a.x - state.at.x) - Math.abs(b.x - state.at.x))[0] ?? state.at, true);
  });

  fill(byId("metric"), data.metrics.map((metric) => [metric.key, metric.label]));
  const names = [...new Set(data.codecs.flatMap((codec) => Object.keys(codec.perPicture)))];
  fill(byId("subject"), [["", "mean of all pictures"], ...names.map((name) => [name, name])]);
  byId("subject").disabled = !names.length;
  byId("metric").addEventListener("change", (event) => { state.metric = event.target.value; draw(); });
  byId("subject").addEventListener("change", (event) => { state.picture = event.target.value || null; draw(); });
  byId("log").addEventListener("change", (event) => { state.log = event.target.checked; draw(); });
  byId("all-rates").addEventListener("click", () => setRange(null));
  for (const id of ["from", "to"]) {
    byId(id).addEventListener("change", () => {
      const ends = [Number(byId("from").value), Number(byId("to").value)];
      if (ends[0] >= 0 && ends[0] < ends[1]) setRange(ends);
      else draw();
    });
  }
  byId("legend").replaceChildren(...data.codecs.map((codec, i) => {
    const look = lookOf(codec, i);
    const tick = element("input", { type: "checkbox" });
    tick.checked = true;
    tick.addEventListener("change", () => {
      state.hidden[tick.checked ? "delete" : "add"](codec.name);
      draw();
    });
    const line = { d: "M0 7H34", stroke: look.colour, "stroke-width": 2, "stroke-dasharray": look.dashes };
    const sample = drawn("svg", { width: 34, height: 14, "aria-hidden": "true" }, drawn("path", line), marker(look, 17, 7, 4));
    const label = element("label", {}, tick, sample, codec.name);
    if (codec.published) label.append(element("small", {}, "published"));
    return label;
  }));
  new ResizeObserver(draw).observe(box);
  draw();
}
