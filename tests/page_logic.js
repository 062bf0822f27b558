// Checks of evaluate/report_page/logic.js; its functions are global where this runs. Returns "ok".
(() => {
  const same = (got, wanted, what) => {
    const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
    if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
  };
  same(niceTicks(0, 1.63, 8), [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6], "ticks");
  same(niceTicks(21.3, 39.8, 5), [25, 30, 35], "ticks that start inside");
  same(niceTicks(-0.3, 0.3, 6), [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3], "ticks around 0");
  same(logTicks(0.04, 2.1), [0.05, 0.1, 0.2, 0.5, 1, 2], "logarithmic ticks");
  same(logTicks(0.01, 20), [0.01, 0.1, 1, 10], "decades");

  const codec = {
    values: { bpp: [1, 0.2, 0.5], q: [40, 30, null] },
    perPicture: { "a.png": { bpp: [1, 0.2], q: [41, 31] } },
  };
  same(pointsOf(codec, "q", null), [{ bpp: 0.2, value: 30, index: 1 }, { bpp: 1, value: 40, index: 0 }], "points");
  same(pointsOf(codec, "q", "a.png").map((p) => p.value), [31, 41], "points of a picture");
  same([pointsOf(codec, "other", null), pointsOf(codec, "q", "b.png")], [[], []], "no points");
  const line = [{ bpp: 0, value: 10 }, { bpp: 1, value: 20 }, { bpp: 3, value: 30 }];
  same([0.5, 2, 3, 3.1].map((bpp) => valueAt(line, bpp)), [15, 25, 30, null], "between points");
  same(visibleRange([line], 0.5, 1), [14.75, 20.25], "visible range with cut ends");
  same(visibleRange([line], 4, 5), null, "nothing visible");

  const marks = [{ x: 0, y: 0 }, { x: 10, y: 0 }];
  same([nearest(marks, 7, 1, 40), nearest(marks, 100, 0, 40)], [marks[1], null], "nearest");

  const rows = [{ v: 2 }, { v: null }, { v: -1 }];
  same(sortRows(rows, (row) => row.v, false).map((row) => row.v), [-1, 2, null], "rising");
  same(sortRows(rows, (row) => row.v, true).map((row) => row.v), [2, -1, null], "falling");
  same(sortRows([{ v: "b" }, { v: "a" }], (row) => row.v, false).map((row) => row.v), ["a", "b"], "by name");

  const [pane, picture] = [{ width: 400, height: 200 }, { width: 800, height: 800 }];
  same(fitZoom(pane, picture), 0.25, "fit");
  same([nextZoom(0.3, 1, 0.25), nextZoom(1, -1, 0.25), nextZoom(0.3, -1, 0.27), nextZoom(16, 1, 1)], [0.5, 0.5, 0.27, 16], "steps");
  same(clampView({ x: 0, y: 900, zoom: 1 }, pane, picture), { zoom: 1, x: 200, y: 700 }, "the pane stays filled");
  same(clampView({ x: 5, y: 5, zoom: 0.25 }, pane, picture), { zoom: 0.25, x: 400, y: 400 }, "centred when smaller");
  // The picture's point under the pointer, 100 pixels right of the middle, stays there.
  const view = zoomAbout({ x: 400, y: 400, zoom: 1 }, 2, 100, 0);
  same([view.x + 100 / view.zoom, view.zoom], [500, 2], "zoom about a point");

  same([...difference([10, 20, 30, 255], [12, 20, 0, 255], 8)], [16, 0, 240, 255], "difference");
  same([...difference([255, 0, 0, 255], [0, 0, 0, 255], 8)], [255, 0, 0, 255], "difference is limited");
  same([fixed(-1.25, 1), fixed(null, 1), signed(3, 1), signed(-3, 1)], ["−1.3", "–", "+3.0", "−3.0"], "numbers");
  same([0.0042, 0.25, 3.21, 42.3, null].map(seconds), ["4.2 ms", "0.25 s", "3.2 s", "42 s", "–"], "seconds");
  const data = {
    metrics: [{ key: "q", label: "PSNR (dB)" }],
    codecs: [{ name: "new" }, { name: "odd" }, { name: "old" }],
    deltas: { q: { odd: { new: { value: null } }, old: { new: { value: -49.6 } } } },
  };
  same(headline(data), { codec: "new", amount: "50 % fewer bits", other: "old", quality: "PSNR" }, "headline");
  same(headline({ ...data, codecs: data.codecs.slice(0, 2) }), null, "no headline");
  return "ok";
})();
