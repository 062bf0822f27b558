// Puts the page together from its data.

function startPage(data) {
  const byId = (id) => document.getElementById(id);
  byId("title").textContent = data.title;
  const line = headline(data);
  if (line) {
    byId("lead").append(element("b", {}, line.codec), " needs ", element("b", {}, line.amount), " than ",
      element("b", {}, line.other), ` at equal ${line.quality}.`);
  }
  const { pictures, pixels } = data.dataset;
  const size = pictures ? `${pictures} picture${pictures > 1 ? "s" : ""}, ${(pixels / 1e6).toFixed(1)} megapixels. ` : "";
  byId("sub").textContent = `${size}Rates count whole files on disk; quality is of the decoded 8-bit pictures.`;

  if (data.pictures.length) makeViewer(data, byId);
  makeChart(data, byId);
  makeTable(data, byId);
  makeConditions(data, byId);
  byId("sections").replaceChildren(...[...document.querySelectorAll("section:not([hidden])")].map((section) =>
    element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
}

function makeConditions(data, byId) {
  const pairs = (entries) => element("dl", {}, ...entries.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
  const parts = data.codecs.map((codec) => {
    const entries = codec.published ? [["published in", codec.source]] : Object.entries(codec.conditions);
    return element("details", {}, element("summary", {}, codec.name), pairs(entries));
  });
  const common = [["averages", data.averaging], ["machines", data.machines.join("; ")], ["pictures", data.dataset.sha256 && `SHA-256 ${data.dataset.sha256}`]];
  parts.push(element("details", {}, element("summary", {}, "All codecs"), pairs(common.filter(([, value]) => value))));
  byId("conditions-list").replaceChildren(...parts);
}

startPage(JSON.parse(document.getElementById("data").textContent));
