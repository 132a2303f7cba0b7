// Review: search, filter, sort, mark and relabel rows. Only what is in view is drawn. The rows come from
// `openRows`, which is that of rows_in_page.js or that of rows_of_server.js.
const review = document.getElementById("review");
// The same characters that Python spells out in the rest of the page.
const spelled = (text) => text.replace(/[^\P{Z} ]|\p{C}/gu,
  (c) => `\u27e8U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
const fileName = (uri) => {
  const [scheme, rest] = uri.includes("://") ? uri.split(/:\/\/(.*)/s) : ["", uri];
  const path = scheme && !["file", "s3"].includes(scheme) ? rest.split("::")[0] : rest;
  return (path || uri).replace(/\/+$/, "").split("/").pop() || uri;
};

const startReview = async () => {
  const list = document.getElementById("rows");
  const field = (name) => document.getElementById(`filter-${name}`);
  const [name, label, truth, from, to, outcome, order] =
    ["name", "label", "truth", "from", "to", "outcome", "order"].map(field);
  const relabel = document.getElementById("relabel");
  const source = await openRows();
  const names = source.labels.map(spelled);
  const listed = (labels) => labels.map((each) => names[each]).join("; ") || "no label";
  let found = { total: 0, row: () => undefined, rows: () => [] };
  let active = 0; // place in `found`
  let asked = 0;

  const wrong = (row) => row.truth >= 0 && row.label >= 0 && row.truth !== row.label;
  const options = (select, texts) => {
    for (const [value, text] of texts) select.append(new Option(text, value));
  };
  options(label, names.map((text, i) => [i, text]));
  options(truth, names.map((text, i) => [i, text]));
  const withKeys = names.map((text, i) => (i < 9 ? `${text} (${i + 1})` : text));
  const first = relabel.options.length; // what stands before the labels
  options(relabel, withKeys.map((text, i) => [i, text]));
  options(outcome, [
    ...(source.truth ? [["right", "right"], ["wrong", "wrong"]] : []),
    ...(source.other ? [["changed", "changed"]] : []),
    ["marked", "marked"], ["given", "relabelled"], ["classified", "classified"], ["rejected", "rejected"],
    ...source.codes.map((code) => [`error ${code}`, `rejected: ${source.errors[code]}`]),
  ]);
  truth.parentElement.hidden = !source.truth;

  // No element is higher than browsers can draw: beyond that, the bar moves by more than one pixel of cards.
  const MAX_HEIGHT = 4_000_000;
  const card = { width: 1, columns: 1, height: 92, lines: 0, scale: 1 };
  const measure = () => {
    card.columns = Math.max(1, Math.floor(list.clientWidth / 230));
    card.width = list.clientWidth / card.columns;
    card.lines = Math.ceil(found.total / card.columns);
    const height = card.lines * card.height;
    const spare = Math.min(height, MAX_HEIGHT) - list.clientHeight;
    card.scale = height > MAX_HEIGHT ? (height - list.clientHeight) / spare : 1;
  };
  const option = (row, at, top) => {
    const made = element("div", undefined, "card");
    made.id = `row-${at}`;
    made.dataset.at = at;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(at === active));
    made.setAttribute("aria-posinset", at + 1);
    made.setAttribute("aria-setsize", found.total);
    made.style.cssText = `left: ${(at % card.columns) * card.width}px; top: ${top}px; width: ${card.width - 6}px; height: ${card.height - 6}px`;
    const face = element("span", undefined, "face");
    const text = element("span", undefined, "caption");
    made.append(face, text);
    if (!row) { // on its way
      text.append(element("b", "…"));
      return made;
    }
    if (row.picture) {
      const image = element("img");
      image.alt = "";
      face.append(image);
      source.load(image, row.picture);
    }
    text.append(element("b", row.label >= 0
      ? `${percent(row.millionths / 1e6)} ${names[row.label]}`
      : `rejected: ${source.errors[row.error]}`));
    if (wrong(row)) text.append(element("span", `labelled ${names[row.truth]}`, "wrong"));
    if (row.changed) text.append(element("span", `was ${row.before}`));
    if (source.several && row.label >= 0) text.append(element("span", `has ${listed(row.has)}`));
    if (row.given) text.append(element("span", `now ${listed(row.given)}`, "coloured"));
    if (row.marked) text.append(element("span", "marked", "coloured"));
    const called = element("bdi", spelled(fileName(row.uri)));
    called.title = spelled(row.uri);
    text.append(called);
    return made;
  };
  const draw = () => {
    if (!found.total) return;
    measure();
    const scrolled = list.scrollTop * card.scale;
    const first = Math.max(0, Math.floor(scrolled / card.height) - 2) * card.columns;
    const last = Math.min(
      found.total,
      (Math.ceil((scrolled + list.clientHeight) / card.height) + 2) * card.columns,
    );
    const space = element("div", undefined, "space");
    space.setAttribute("role", "presentation");
    space.style.height = `${Math.min(MAX_HEIGHT, card.lines * card.height)}px`;
    list.replaceChildren(space, ...found.rows(first, last).map((row, i) => {
      const line = Math.floor((first + i) / card.columns);
      return option(row, first + i, line * card.height - scrolled + list.scrollTop);
    }));
    const current = document.getElementById(`row-${active}`);
    if (current) list.setAttribute("aria-activedescendant", current.id);
    else list.removeAttribute("aria-activedescendant");
  };
  const redraw = () => { draw(); told(); };
  const update = async () => {
    const mine = ++asked;
    const low = Math.round((Number(from.value) || 0) * 1e4);
    const high = to.value === "" || Number(to.value) >= 100 ? -1 : Math.round(Number(to.value) * 1e4);
    const answer = await source.search({
      name: name.value.trim().toLowerCase(),
      label: label.value === "" ? -1 : Number(label.value),
      truth: truth.value === "" ? -1 : Number(truth.value),
      low,
      high,
      outcome: outcome.value,
      order: order.value,
    }, redraw);
    if (mine !== asked || !answer) return;
    found = answer;
    active = 0;
    list.scrollTop = 0;
    list.hidden = !found.total;
    document.getElementById("review-count").textContent = found.total
      ? `${number(found.total)} of ${counted(source.count, "image")}`
      : "No image is like that.";
    redraw();
  };

  const told = () => {
    const row = found.row(active);
    relabel.disabled = row === undefined;
    if (source.several) {
      const now = new Set(row?.given ?? row?.has);
      withKeys.forEach((text, i) => { relabel.options[first + i].text = now.has(i) ? `\u2713 ${text}` : text; });
      relabel.value = ""; // the same one can be chosen again
    } else relabel.value = row?.given ? row.given[0] : "";
    source.tell();
  };
  // The galleries have the scores of their pictures; of two classes, one score tells the other.
  const scores = (row) => {
    if (row.label < 0) return [];
    const thumb = find(`.item[data-place="${row.place}"] .thumb`);
    if (thumb) return JSON.parse(thumb.dataset.about).scores;
    const best = row.millionths / 1e6;
    const one = [[names[row.label], best]];
    return names.length === 2 && !source.several ? [...one, [names[1 - row.label], 1 - best]] : one;
  };
  const keys = document.getElementById("review-keys").textContent.replace("Enter opens", "Esc closes");
  const show = () => {
    const row = found.row(active);
    if (!row) return;
    const image = row.picture && element("img");
    if (image) {
      image.src = row.picture;
      image.alt = spelled(fileName(row.uri));
    }
    dialog.dataset.review = "";
    showPicture({
      title: row.label >= 0 ? names[row.label] : "rejected",
      image,
      scores: scores(row),
      keys,
      facts: [["File", spelled(row.uri)],
        ["Labelled", row.truth >= 0 ? names[row.truth] : ""],
        ["Has", source.several && row.label >= 0 ? listed(row.has) : ""],
        ["Before", row.before],
        ["Now", row.given ? listed(row.given) : ""],
        ["Mark", row.marked ? "marked" : ""],
        ["Trouble", row.label < 0 ? source.errors[row.error] : row.picture ? "" : "Its picture is not in this page."]],
    });
  };
  const go = (at) => {
    measure();
    active = Math.max(0, Math.min(found.total - 1, at));
    const top = Math.floor(active / card.columns) * card.height;
    const scrolled = list.scrollTop * card.scale;
    if (top < scrolled) list.scrollTop = Math.floor(top / card.scale);
    if (top + card.height > scrolled + list.clientHeight) {
      list.scrollTop = Math.ceil((top + card.height - list.clientHeight) / card.scale);
    }
    redraw();
  };
  const change = (what) => {
    const row = found.row(active);
    if (!row) return;
    Object.assign(row, what(row));
    source.change(row);
    redraw();
  };
  // One label in place of another; of several, one more or one less than the image has by now.
  const toggled = (now, label_) => (now.includes(label_)
    ? now.filter((each) => each !== label_)
    : [...now, label_].sort((a, b) => a - b));
  const give = (label_) => change(({ given, has }) => ({
    given: source.several ? toggled(given ?? has, label_) : [label_],
  }));
  const takeBack = () => change(() => ({ given: null }));
  const press = (event) => {
    if (!found.total || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(list.clientHeight / card.height)) * card.columns;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -card.columns, ArrowDown: card.columns,
      PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (event.key in moves) go(active + moves[event.key]);
    else if (digit >= 0 && digit < names.length) give(digit);
    else if (event.key === "0") takeBack();
    else if (event.key.toLowerCase() === "m") change((row) => ({ marked: !row.marked }));
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
    if (["", "none"].includes(relabel.value)) takeBack();
    else give(Number(relabel.value));
  });
  for (const each of [name, label, truth, from, to, outcome, order]) {
    each.addEventListener(each.matches("select") ? "change" : "input", () => requestAnimationFrame(update));
  }
  const clear = () => {
    for (const each of [name, label, truth, from, to, outcome]) each.value = "";
  };
  document.getElementById("filter-clear").addEventListener("click", () => { clear(); update(); });

  // Cells and bars open their images.
  const open = async (query) => {
    clear();
    for (const [key, value] of Object.entries(query)) {
      field(key).value = key === "from" || key === "to" ? Number((100 * value).toFixed(2)) : value;
    }
    order.selectedIndex = 0;
    await update();
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
  await update();
  review.dataset.ready = "";
};
if (review) startReview();
