// The table of BD-rates, times and multiplications; every column sorts.

function makeTable(data, byId) {
  const measured = data.codecs.filter((codec) => !codec.published);
  const state = { anchor: null, metric: data.metrics[0].key, key: null, descending: false };
  const marks = []; // texts of the notes

  const columns = [
    { key: "name", head: "Codec", unit: "", value: (row) => row.codec.name },
    { key: "delta", head: "BD-rate", unit: "%", value: (row) => row.delta?.value ?? null },
    { key: "mean", head: "Mean of pictures", unit: "%, 95 % interval", value: (row) => row.delta?.mean ?? null },
    { key: "range", head: "Common range", unit: "", value: (row) => row.delta?.range?.[0] ?? null },
    { key: "encode", head: "Encode", unit: "per megapixel", value: (row) => row.codec.encode },
    { key: "decode", head: "Decode", unit: "per megapixel", value: (row) => row.codec.decode },
    { key: "kmac", head: "Decoder", unit: "kMAC per pixel", value: (row) => row.codec.kmac },
  ];

  /** The number of a note, which is listed once. */
  function mark(text) {
    if (!marks.includes(text)) marks.push(text);
    return marks.indexOf(text) + 1;
  }

  function cell(row, column) {
    const { codec, delta } = row;
    const td = element(column.key === "name" ? "th" : "td", column.key === "name" ? { scope: "row" } : {});
    if (column.key === "name") {
      td.append(codec.name);
      if (codec.published) td.append(element("small", {}, "published"));
    } else if (column.key === "delta") {
      if (codec.name === state.anchor) td.append(element("small", {}, "reference"));
      else {
        td.append(signed(delta.value, 1));
        if (delta.value !== null) td.className = delta.value < 0 ? "good" : "bad";
        for (const note of delta.notes) td.append(" ", element("sup", {}, String(mark(note))));
      }
    } else if (column.key === "mean") {
      td.append(signed(delta?.mean ?? null, 1));
      if (delta?.halfWidth !== undefined && delta.halfWidth !== null) {
        td.append(" ", element("small", {}, `± ${fixed(delta.halfWidth, 1)}`));
      }
      if (delta?.leftOut) td.append(" ", element("sup", {}, String(mark(`${delta.leftOut} pictures have no BD-rate of their own`))));
    } else if (column.key === "range") {
      td.append(delta?.range ? `${fixed(delta.range[0], 1)} to ${fixed(delta.range[1], 1)}` : "–");
    } else if (column.key === "kmac") {
      td.append(codec.kmac === null ? "–" : codec.kmac.toPrecision(3));
    } else {
      td.append(seconds(codec[column.key]));
    }
    return td;
  }

  function draw() {
    marks.length = 0;
    const against = data.deltas[state.metric][state.anchor] ?? {};
    let rows = data.codecs.map((codec) => ({ codec, delta: against[codec.name] ?? null }));
    const shown = columns.filter((column) => column.key === "name" || column.key === "delta" || rows.some((row) => column.value(row) !== null));
    if (state.key) rows = sortRows(rows, columns.find((column) => column.key === state.key).value, state.descending);
    const heads = shown.map((column) => {
      const sorted = column.key === state.key;
      const arrow = element("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (state.descending ? "↓" : "↑") : "");
      const button = element("button", { type: "button", "data-key": column.key }, column.head, arrow, element("small", {}, column.unit || "\u00a0"));
      button.addEventListener("click", () => {
        state.descending = sorted && !state.descending;
        state.key = column.key;
        draw();
        byId("table").querySelector(`[data-key="${column.key}"]`).focus();
      });
      return element("th", { scope: "col", "aria-sort": sorted ? (state.descending ? "descending" : "ascending") : "none" }, button);
    });
    const body = rows.map((row) => element("tr", {}, ...shown.map((column) => cell(row, column))));
    byId("table").replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
    byId("notes").replaceChildren(...marks.map((text) => element("li", {}, `${text}.`)));
  }

  const label = (metric) => metric.label.replace(" (dB)", "");
  fill(byId("delta-metric"), data.metrics.map((metric) => [metric.key, label(metric)]));
  fill(byId("anchor"), data.codecs.map((codec) => [codec.name, codec.name]));
  // The reference that makes the table say most: the first conventional codec of this run.
  state.anchor = (measured[1] ?? data.codecs[1] ?? data.codecs[0]).name;
  byId("anchor").value = state.anchor;
  byId("anchor").addEventListener("change", (event) => { state.anchor = event.target.value; draw(); });
  byId("delta-metric").addEventListener("change", (event) => { state.metric = event.target.value; draw(); });
  byId("table-note").textContent =
    "BD-rate: how many more (+) or fewer (−) bits than the reference at equal quality, " +
    `between curves of means, method ${data.method}.` +
    (data.machines.length ? ` Times are wall clock, measured on: ${data.machines.join("; ")}.` : "");
  draw();
}
