// The comparison of pictures: wipe, side by side, difference; zoom and pan on one canvas.

const ORIGINAL = "";

function makeViewer(data, byId) {
  const [stage, canvas] = [byId("stage"), byId("canvas")];
  const paper = canvas.getContext("2d");
  const state = { picture: 0, rate: 1, sides: [ORIGINAL, ORIGINAL], mode: "wipe", wipe: 0.5, gain: 8, isFit: true };
  let view = { x: 0, y: 0, zoom: 1 }; // in device pixels per picture pixel
  let images = [null, null];
  let differing = { key: "", canvas: null };
  const loaded = new Map(); // address -> promise of an image

  const current = () => data.pictures[state.picture];
  const versionOf = (codec) => (codec === ORIGINAL ? null : current().versions[codec][state.rate]);
  const sizeOf = () => current().crop ?? current();
  const dpr = () => window.devicePixelRatio || 1;

  /** The part of the canvas that shows a picture as a whole: all of it, or half side by side. */
  function pane() {
    return { width: state.mode === "side" ? canvas.width / 2 : canvas.width, height: canvas.height };
  }

  function load(codec) {
    const source = codec === ORIGINAL ? current().original : versionOf(codec).source;
    if (!loaded.has(source)) {
      const image = new Image();
      image.src = source;
      loaded.set(source, image.decode().then(() => image));
    }
    return loaded.get(source);
  }

  /** Fit the stage to the picture's shape and the window, and the canvas to the stage. */
  function layout() {
    const { width, height } = sizeOf();
    const aspect = (state.mode === "side" ? 2 : 1) * (width / height);
    const room = stage.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(stage.parentElement).paddingLeft);
    // No larger than the picture itself, unless that is tiny: enlarging shows nothing more.
    const natural = Math.max((state.mode === "side" ? 2 : 1) * width, 480);
    const columns = Math.min(room, natural, Math.max(300, 0.78 * window.innerHeight) * aspect);
    stage.style.width = `${columns}px`;
    stage.style.height = `${columns / aspect}px`;
    canvas.width = Math.round(columns * dpr());
    canvas.height = Math.round((columns / aspect) * dpr());
    if (state.isFit) fit();
    draw();
  }

  function fit() {
    const size = sizeOf();
    view = { x: size.width / 2, y: size.height / 2, zoom: fitZoom(pane(), size) };
    state.isFit = true;
  }

  function zoomTo(zoom, dx = 0, dy = 0) {
    const least = fitZoom(pane(), sizeOf());
    if (zoom <= least * 1.001) fit();
    else {
      state.isFit = false;
      view = clampView(zoomAbout(view, Math.min(zoom, 16), dx, dy), pane(), sizeOf());
    }
    draw();
  }

  function pan(dx, dy) {
    view = clampView({ ...view, x: view.x - dx / view.zoom, y: view.y - dy / view.zoom }, pane(), sizeOf());
    draw();
  }

  function setWipe(share) {
    state.wipe = Math.min(Math.max(share, 0), 1);
    byId("wipe").value = 100 * state.wipe;
    draw();
  }

  /** Draw an image between two columns of the canvas, with the view's centre in the pane's middle. */
  function place(image, left, right, middle) {
    const size = sizeOf();
    paper.save();
    paper.beginPath();
    paper.rect(left, 0, right - left, canvas.height);
    paper.clip();
    // On whole pixels where the picture is not shrunk, so that 1:1 shows the very samples.
    const [x, y] = [middle - view.x * view.zoom, canvas.height / 2 - view.y * view.zoom].map(Math.round);
    paper.drawImage(image, x, y, size.width * view.zoom, size.height * view.zoom);
    paper.restore();
  }

  function draw() {
    stage.classList.toggle("is-zoomed", !state.isFit);
    paper.clearRect(0, 0, canvas.width, canvas.height);
    const percent = 100 * view.zoom;
    byId("zoom").value = state.isFit ? `fit, ${percent.toFixed(0)} %` : `${percent.toFixed(0)} %`;
    if (!images[0] || !images[1]) return;
    paper.imageSmoothingEnabled = view.zoom < 2 && view.zoom !== 1;
    paper.imageSmoothingQuality = "high";
    const { width } = canvas;
    if (state.mode === "difference") place(differenceCanvas(), 0, width, width / 2);
    else if (state.mode === "side") {
      const half = Math.round(width / 2);
      place(images[0], 0, half, half / 2);
      place(images[1], half, width, half + half / 2);
      rule(half);
    } else {
      const at = Math.round(state.wipe * width);
      place(images[0], 0, at, width / 2);
      place(images[1], at, width, width / 2);
      rule(at);
      handle(at);
    }
  }

  function rule(x) {
    paper.fillStyle = "#000000";
    paper.fillRect(x - 1.5 * dpr(), 0, 3 * dpr(), canvas.height);
    paper.fillStyle = "#ffffff";
    paper.fillRect(x - 0.5 * dpr(), 0, dpr(), canvas.height);
  }

  function handle(x) {
    const [y, r] = [canvas.height - 30 * dpr(), 14 * dpr()];
    paper.beginPath();
    paper.arc(x, y, r, 0, 2 * Math.PI);
    paper.fillStyle = "#ffffff";
    paper.fill();
    paper.lineWidth = 1.5 * dpr();
    paper.strokeStyle = "#000000";
    paper.stroke();
    paper.beginPath();
    for (const sign of [-1, 1]) {
      paper.moveTo(x + sign * 0.3 * r, y - 0.32 * r);
      paper.lineTo(x + sign * 0.62 * r, y);
      paper.lineTo(x + sign * 0.3 * r, y + 0.32 * r);
    }
    paper.stroke();
  }

  function differenceCanvas() {
    const key = [state.picture, state.rate, ...state.sides, state.gain].join("\n");
    if (differing.key === key) return differing.canvas;
    const size = sizeOf();
    const made = element("canvas", { width: size.width, height: size.height });
    const context = made.getContext("2d", { willReadFrequently: true });
    const [a, b] = images.map((image) => {
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, size.width, size.height).data;
    });
    context.putImageData(new ImageData(difference(a, b, state.gain), size.width, size.height), 0, 0);
    differing = { key, canvas: made };
    return made;
  }

  const title = (codec) => (codec === ORIGINAL ? "original" : codec);

  function fact(side, codec) {
    const version = versionOf(codec);
    const { width, height } = current();
    const head = element("h3", {}, title(codec), element("span", {}, side));
    if (!version) return element("div", { class: "fact" }, head, element("p", {}, `${width} × ${height} pixels, as in the folder`));
    const facts = [
      ["Rate", `${fixed(version.bpp, 3)} bpp`],
      ["File", `${version.bytes.toLocaleString("en")} B`],
      ["PSNR-RGB", version.psnr === null ? "exact" : `${fixed(version.psnr, 2)} dB`],
      ["MS-SSIM", version.msssim === null ? "–" : `${fixed(version.msssim, 2)} dB`],
      ["Quality", String(version.quality)],
    ];
    const list = element("dl", {}, ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    return element("div", { class: "fact" }, head, list);
  }

  /** What stays to be said: the difference of the rates, the crop. */
  function note() {
    const [a, b] = state.sides.map(versionOf);
    const texts = [];
    if (a && b) {
      const percent = 100 * (b.bpp / a.bpp - 1);
      texts.push(Math.abs(percent) < 0.5
        ? "Both files are of the same size."
        : `The right file has ${Math.abs(percent).toFixed(0)} % ${percent > 0 ? "more" : "fewer"} bits than the left one.`);
    }
    const { crop, width, height } = current();
    texts.push("The pictures are embedded without loss, exactly as the codecs decoded them.");
    if (crop) {
      texts.push(`Shown is the middle, ${crop.width} × ${crop.height} of ${width} × ${height} pixels, ` +
        "to bound the size of this page; the numbers are of the whole picture.");
    }
    return texts.join(" ");
  }

  /** Everything after a change of picture, rate, codecs or view. */
  function update(isNewShape = false) {
    for (const button of document.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
    }
    byId("wipe-row").hidden = state.mode !== "wipe";
    byId("gain-row").hidden = state.mode !== "difference";
    byId("gain-value").value = `× ${state.gain}`;
    const [left, right] = state.sides.map(title);
    const isDifference = state.mode === "difference";
    byId("chip-left").textContent = isDifference ? `|${left} − ${right}| × ${state.gain}` : left;
    byId("chip-right").textContent = right;
    byId("chip-right").hidden = isDifference;
    byId("facts").replaceChildren(fact("left", state.sides[0]), fact("right", state.sides[1]));
    byId("picture-note").textContent = note();
    stage.setAttribute("aria-label", `${current().name}: ${left} on the left, ${right} on the right`);
    byId("left").value = state.sides[0];
    byId("right").value = state.sides[1];
    byId("rate").value = state.rate;
    fill(byId("rate"), data.rates.map((name, i) => [i, `${fixed(current().targets[i], 2)} bpp, ${name}`]));
    byId("rate").value = state.rate;
    if (isNewShape) state.isFit = true;
    const wanted = [state.picture, state.rate, ...state.sides].join("\n");
    Promise.all(state.sides.map(load)).then((both) => {
      if (wanted !== [state.picture, state.rate, ...state.sides].join("\n")) return; // chosen meanwhile
      images = both;
      stage.dataset.shown = wanted;
      layout();
    });
  }

  function setMode(mode) {
    state.mode = mode;
    update(true);
  }

  function swap() {
    state.sides.reverse();
    update();
  }

  const codecs = Object.keys(data.pictures[0].versions);
  state.sides = codecs.length > 1 ? [codecs[1], codecs[0]] : [ORIGINAL, codecs[0]];
  fill(byId("picture"), data.pictures.map((picture, i) => [i, picture.name]));
  for (const [i, id] of ["left", "right"].entries()) {
    fill(byId(id), [...codecs.map((name) => [name, name]), [ORIGINAL, "original"]]);
    byId(id).addEventListener("change", (event) => { state.sides[i] = event.target.value; update(); });
  }
  byId("picture").addEventListener("change", (event) => { state.picture = Number(event.target.value); update(true); });
  byId("rate").addEventListener("change", (event) => { state.rate = Number(event.target.value); update(); });
  byId("swap").addEventListener("click", swap);
  byId("wipe").addEventListener("input", (event) => setWipe(event.target.value / 100));
  byId("gain").addEventListener("input", (event) => { state.gain = Number(event.target.value); update(); });
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.addEventListener("click", () => setMode(button.dataset.mode));
  }
  const zooms = {
    fit: () => { fit(); draw(); },
    one: () => zoomTo(1),
    in: () => zoomTo(nextZoom(view.zoom, 1, fitZoom(pane(), sizeOf()))),
    out: () => zoomTo(nextZoom(view.zoom, -1, fitZoom(pane(), sizeOf()))),
  };
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", zooms[button.dataset.zoom]);
  }

  const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      "+": zooms.in, "=": zooms.in, "-": zooms.out, 0: zooms.fit, 1: zooms.one, s: swap,
      d: () => setMode(state.mode === "difference" ? "wipe" : "difference"),
    };
    const action = keys[event.key.toLowerCase()];
    const arrow = arrows[event.key];
    if (!action && !arrow) return;
    event.preventDefault();
    if (action) action();
    else if (!state.isFit) pan(60 * dpr() * arrow[0], 60 * dpr() * arrow[1]);
    else if (state.mode === "wipe" && arrow[0]) setWipe(state.wipe - 0.02 * arrow[0]);
  });

  // Pointers: one drags the wipe or the picture, two zoom.
  const pointers = new Map();
  let isWiping = false;
  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: (event.clientX - box.left) * dpr(), y: (event.clientY - box.top) * dpr() };
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    const near = Math.abs(at(event).x - state.wipe * canvas.width) < 22 * dpr();
    isWiping = state.mode === "wipe" && pointers.size === 1 && (state.isFit || near);
    if (isWiping) setWipe(at(event).x / canvas.width);
    else stage.classList.add("is-dragged");
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const spread = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
      zoomTo((view.zoom * spread(now)) / spread(before), (now.x + other.x) / 2 - canvas.width / 2, (now.y + other.y) / 2 - canvas.height / 2);
    } else if (isWiping) setWipe(now.x / canvas.width);
    else if (!state.isFit) pan(now.x - before.x, now.y - before.y);
    pointers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      stage.classList.remove("is-dragged");
    });
  }
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
    event.preventDefault();
    const point = at(event);
    zoomTo(view.zoom * Math.exp(-0.004 * event.deltaY), point.x - canvas.width / 2, point.y - canvas.height / 2);
  }, { passive: false });

  window.addEventListener("resize", layout);
  byId("pictures").hidden = false;
  update(true);
}
