// Review: search, filter, sort, mark and relabel the rows of the page. Only what is in view is drawn.
const review = document.getElementById("review");
// The same characters that Python spells out in the rest of the page.
const spelled = (text) => text.replace(/[^\P{Z} ]|\p{C}/gu,
  (c) => `\u27e8U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
const fileName = (uri) => {
  const [scheme, rest] = uri.includes("://") ? uri.split(/:\/\/(.*)/s) : ["", uri];
  const path = scheme && !["file", "s3"].includes(scheme) ? rest.split("::")[0] : rest;
  return (path || uri).replace(/\/+$/, "").split("/").pop() || uri;
};
const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
};

const startReview = async () => {
  const rows = await unpack(document.getElementById("review-data").textContent);
  const count = rows.uri.length;
  const search = rows.uri.map((uri) => uri.toLowerCase());
  const names = rows.labels.map(spelled);
  const list = document.getElementById("rows");
  const field = (name) => document.getElementById(`filter-${name}`);
  const [name, label, truth, from, to, outcome, order] =
    ["name", "label", "truth", "from", "to", "outcome", "order"].map(field);
  const relabel = document.getElementById("relabel");
  const save = document.getElementById("save");
  const saveMarked = document.getElementById("save-marked");
  const given = new Map(); // row: number of its new label
  const marked = new Set();
  const unsaved = new Set();
  let found = [];
  let active = 0; // place in `found`

  const picture = (row) => {
    const there = rows.shown[row];
    return there ? find(`.item[data-place="${there}"] img`)?.src : rows.pictures[row];
  };
  const otherName = (row) => {
    const other = rows.other[row];
    return other === -2 ? undefined : other === -1 ? "rejected" : spelled(rows.otherLabels[other]);
  };
  const changed = (row) => rows.other !== null && rows.other[row] !== -2
    && rows.otherLabels[rows.other[row]] !== rows.labels[rows.label[row]];
  const labelled = (row) => (rows.truth ? rows.truth[row] : -1);
  const wrong = (row) => labelled(row) >= 0 && rows.label[row] >= 0 && labelled(row) !== rows.label[row];

  const options = (select, texts) => {
    for (const [value, text] of texts) select.append(new Option(text, value));
  };
  options(label, names.map((text, i) => [i, text]));
  options(truth, names.map((text, i) => [i, text]));
  options(relabel, names.map((text, i) => [i, i < 9 ? `${text} (${i + 1})` : text]));
  options(outcome, [
    ...(rows.truth ? [["right", "right"], ["wrong", "wrong"]] : []),
    ...(rows.other ? [["changed", "changed"]] : []),
    ["marked", "marked"], ["given", "relabelled"], ["classified", "classified"], ["rejected", "rejected"],
    ...rows.errors.flatMap((code, i) => (rows.error.includes(i) ? [[`error ${i}`, `rejected: ${code}`]] : [])),
  ]);
  truth.parentElement.hidden = rows.truth === null;

  const outcomes = {
    "": () => true,
    right: (row) => labelled(row) >= 0 && labelled(row) === rows.label[row],
    wrong,
    changed,
    marked: (row) => marked.has(row),
    given: (row) => given.has(row),
    classified: (row) => rows.label[row] >= 0,
    rejected: (row) => rows.label[row] < 0,
  };
  const orders = {
    pictures: (a, b) => (picture(b) !== undefined) - (picture(a) !== undefined) || a - b,
    certain: (a, b) => rows.millionths[b] - rows.millionths[a] || a - b,
    doubtful: (a, b) => rows.millionths[a] - rows.millionths[b] || a - b,
    name: (a, b) => (search[a] < search[b] ? -1 : Number(search[a] > search[b])) || a - b,
    plan: (a, b) => a - b,
  };

  const card = { width: 1, columns: 1, height: 92 };
  const measure = () => {
    card.columns = Math.max(1, Math.floor(list.clientWidth / 230));
    card.width = list.clientWidth / card.columns;
  };
  const option = (at) => {
    const row = found[at];
    const made = element("div", undefined, "card");
    made.id = `row-${row}`;
    made.dataset.at = at;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(at === active));
    made.setAttribute("aria-posinset", at + 1);
    made.setAttribute("aria-setsize", found.length);
    made.style.cssText = `left: ${(at % card.columns) * card.width}px; top: ${Math.floor(at / card.columns) * card.height}px; width: ${card.width - 6}px; height: ${card.height - 6}px`;
    const face = element("span", undefined, "face");
    const source = picture(row);
    if (source) {
      const image = element("img");
      image.src = source;
      image.alt = "";
      face.append(image);
    }
    const text = element("span", undefined, "caption");
    const said = rows.label[row] >= 0
      ? `${percent(rows.millionths[row] / 1e6)} ${names[rows.label[row]]}`
      : `rejected: ${rows.errors[rows.error[row]]}`;
    text.append(element("b", said));
    if (wrong(row)) text.append(element("span", `labelled ${names[labelled(row)]}`, "wrong"));
    if (changed(row)) text.append(element("span", `was ${otherName(row)}`));
    if (given.has(row)) text.append(element("span", `now ${names[given.get(row)]}`, "coloured"));
    if (marked.has(row)) text.append(element("span", "marked", "coloured"));
    text.append(element("bdi", spelled(fileName(rows.uri[row]))));
    made.append(face, text);
    return made;
  };
  const draw = () => {
    if (!found.length) return;
    measure();
    const lines = Math.ceil(found.length / card.columns);
    const first = Math.max(0, Math.floor(list.scrollTop / card.height) - 2);
    const last = Math.min(lines, Math.ceil((list.scrollTop + list.clientHeight) / card.height) + 2);
    const drawn = [];
    for (let at = first * card.columns; at < Math.min(found.length, last * card.columns); at++) {
      drawn.push(option(at));
    }
    const space = element("div", undefined, "space");
    space.setAttribute("role", "presentation");
    space.style.height = `${lines * card.height}px`;
    list.replaceChildren(space, ...drawn);
    const current = document.getElementById(`row-${found[active]}`);
    if (current) list.setAttribute("aria-activedescendant", current.id);
    else list.removeAttribute("aria-activedescendant");
  };
  const update = () => {
    const wanted = name.value.trim().toLowerCase();
    const code = outcome.value.startsWith("error ") ? Number(outcome.value.slice(6)) : -1;
    const fits = code >= 0 ? (row) => rows.error[row] === code : outcomes[outcome.value];
    const low = Math.round((Number(from.value) || 0) * 1e4);
    const high = to.value === "" || Number(to.value) >= 100 ? Infinity : Math.round(Number(to.value) * 1e4);
    found = [];
    for (let row = 0; row < count; row++) {
      const above = rows.millionths[row] + 1; // the next millionth: they are rounded down
      if (label.value !== "" && rows.label[row] !== Number(label.value)) continue;
      if (truth.value !== "" && labelled(row) !== Number(truth.value)) continue;
      if ((low || high !== Infinity) && (rows.label[row] < 0 || above < low || above >= high)) continue;
      if (fits(row) && (!wanted || search[row].includes(wanted))) found.push(row);
    }
    found.sort(orders[order.value]);
    active = 0;
    list.scrollTop = 0;
    list.hidden = !found.length;
    document.getElementById("review-count").textContent = found.length
      ? `${number(found.length)} of ${number(count)} images`
      : "No image is like that.";
    draw();
    told();
  };

  const told = () => {
    const row = found[active];
    relabel.disabled = row === undefined;
    relabel.value = given.has(row) ? given.get(row) : "";
    save.disabled = !given.size;
    save.textContent = `Save ${number(given.size)} new labels`;
    saveMarked.disabled = !marked.size;
    saveMarked.textContent = `Save ${number(marked.size)} marked`;
  };
  const show = () => {
    const row = found[active];
    const source = picture(row);
    const image = source && element("img");
    if (image) {
      image.src = source;
      image.alt = spelled(fileName(rows.uri[row]));
    }
    dialog.dataset.review = "";
    showPicture({
      title: rows.label[row] >= 0 ? names[rows.label[row]] : "rejected",
      image,
      scores: rows.label[row] >= 0 ? [[names[rows.label[row]], rows.millionths[row] / 1e6]] : [],
      facts: [["File", spelled(rows.uri[row])],
        ["Labelled", labelled(row) >= 0 ? names[labelled(row)] : ""],
        ["Before", rows.other && otherName(row)],
        ["Now", given.has(row) ? names[given.get(row)] : ""],
        ["Mark", marked.has(row) ? "marked" : ""],
        ["Trouble", rows.label[row] < 0 ? rows.errors[rows.error[row]] : source ? "" : "Its picture is not in this page."]],
    });
  };
  const go = (at) => {
    active = Math.max(0, Math.min(found.length - 1, at));
    const top = Math.floor(active / card.columns) * card.height;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + card.height > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + card.height - list.clientHeight;
    }
    draw();
    told();
  };
  const touch = (what) => { unsaved.add(what); draw(); told(); };
  const give = (number_) => {
    if (number_ === undefined) given.delete(found[active]);
    else given.set(found[active], number_);
    touch("given");
  };
  const mark = () => {
    const row = found[active];
    if (!marked.delete(row)) marked.add(row);
    touch("marked");
  };
  const press = (event) => {
    if (!found.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(list.clientHeight / card.height)) * card.columns;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -card.columns, ArrowDown: card.columns,
      PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (event.key in moves) go(active + moves[event.key]);
    else if (digit >= 0 && digit < names.length) give(digit);
    else if (event.key === "0") give(undefined);
    else if (event.key.toLowerCase() === "m") mark();
    else if (event.key === "Enter" && event.currentTarget === list) show();
    else return;
    event.preventDefault();
    if (dialog.open) show();
  };
  list.addEventListener("keydown", press);
  dialog.addEventListener("keydown", (event) => { if ("review" in dialog.dataset) press(event); });
  dialog.addEventListener("close", () => {
    if (!("review" in dialog.dataset)) return;
    delete dialog.dataset.review;
    list.focus();
  });
  list.addEventListener("click", (event) => {
    const chosen = event.target.closest(".card");
    if (!chosen) return;
    go(Number(chosen.dataset.at));
    show();
  });
  list.addEventListener("scroll", () => requestAnimationFrame(draw));
  addEventListener("resize", () => requestAnimationFrame(draw));
  relabel.addEventListener("change", () => {
    give(relabel.value === "" ? undefined : Number(relabel.value));
  });
  for (const each of [name, label, truth, from, to, outcome, order]) {
    each.addEventListener(each.matches("select") ? "change" : "input", () => requestAnimationFrame(update));
  }
  const clear = () => {
    for (const each of [name, label, truth, from, to, outcome]) each.value = "";
  };
  document.getElementById("filter-clear").addEventListener("click", () => { clear(); update(); });

  // `catdog train --labels` takes the table; the list is an input of every command.
  const download = (fileName_, type, lines) => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([[...lines, ""].join("\n")], { type }));
    link.download = fileName_;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const inOrder = (rows_) => [...rows_].sort((a, b) => a - b);
  save.addEventListener("click", () => {
    const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
    download("labels.csv", "text/csv", ["uri,label,labelled_before", ...inOrder(given.keys()).map((row) => [
      quoted(rows.uri[row]),
      quoted(rows.labels[given.get(row)]),
      labelled(row) >= 0 ? quoted(rows.labels[labelled(row)]) : "",
    ].join(","))]);
    unsaved.delete("given");
  });
  saveMarked.addEventListener("click", () => {
    download("marked.txt", "text/plain", inOrder(marked).map((row) => rows.uri[row]));
    unsaved.delete("marked");
  });
  addEventListener("beforeunload", (event) => { if (unsaved.size) event.preventDefault(); });

  // Cells and bars open their images.
  const open = (query) => {
    clear();
    for (const [key, value] of Object.entries(query)) {
      field(key).value = key === "from" || key === "to" ? Number((100 * value).toFixed(2)) : value;
    }
    order.value = "pictures";
    update();
    review.scrollIntoView({ behavior: "instant" });
    list.focus({ preventScroll: true });
  };
  for (const button of all("[data-open]")) {
    button.addEventListener("click", () => open(JSON.parse(button.dataset.open)));
  }
  for (const figure of all(".distribution")) {
    const edges = JSON.parse(figure.dataset.edges);
    const svg = find("svg", figure);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const { x0, x1 } = figure.dataset;
      const bar = Math.floor(((x - x0) / (x1 - x0)) * (edges.length - 1));
      if (bar < 0 || bar > edges.length - 2) return;
      open({ label: figure.dataset.label, from: bar ? edges[bar] : 0, to: edges[bar + 1] });
    });
  }
  document.body.classList.add("reviewable");
  review.hidden = false;
  all('a[href="#review"]').forEach((link) => { link.parentElement.hidden = false; });
  update();
  review.dataset.ready = "";
};
if (review) startReview();
