// The rows of a page by itself: they stand in it, compressed; new labels and marks are saved as downloads.
const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
};

const openRows = async () => {
  const rows = await unpack(document.getElementById("review-data").textContent);
  const text = rows.uri.map((uri) => uri.toLowerCase());
  const save = document.getElementById("save");
  const saveMarked = document.getElementById("save-marked");
  const given = new Map(); // row: numbers of its new labels
  const marked = new Set();
  const unsaved = new Set();

  const picture = (row) => {
    const there = rows.shown[row];
    return there ? find(`.item[data-place="${there}"] img`)?.src : rows.pictures[row];
  };
  const labelled = (row) => (rows.truth ? rows.truth[row] : -1);
  const before = (row) => {
    const other = rows.other ? rows.other[row] : -2;
    return other === -2 ? undefined : other === -1 ? "rejected" : spelled(rows.otherLabels[other]);
  };
  const changed = (row) => rows.other !== null && rows.other[row] !== -2
    && rows.otherLabels[rows.other[row]] !== rows.labels[rows.label[row]];
  const whole = (row) => row === undefined ? undefined : {
    row,
    place: rows.shown[row],
    uri: rows.uri[row],
    label: rows.label[row],
    truth: labelled(row),
    millionths: rows.millionths[row],
    error: rows.error[row],
    before: before(row),
    changed: changed(row),
    picture: picture(row),
    has: rows.has ? rows.has[row] : null,
    given: given.get(row) ?? null,
    marked: marked.has(row),
  };

  const outcomes = {
    "": () => true,
    right: (row) => labelled(row) >= 0 && labelled(row) === rows.label[row],
    wrong: (row) => labelled(row) >= 0 && rows.label[row] >= 0 && labelled(row) !== rows.label[row],
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
    name: (a, b) => (text[a] < text[b] ? -1 : Number(text[a] > text[b])) || a - b,
    plan: (a, b) => a - b,
  };
  const search = async ({ name, label, truth, low, high, outcome, order }) => {
    const code = outcome.startsWith("error ") ? Number(outcome.slice(6)) : -1;
    const fits = code >= 0 ? (row) => rows.error[row] === code : outcomes[outcome];
    const found = [];
    for (let row = 0; row < rows.uri.length; row++) {
      const above = rows.millionths[row] + 1; // the next millionth: they are rounded down
      if (label >= 0 && rows.label[row] !== label) continue;
      if (truth >= 0 && labelled(row) !== truth) continue;
      if ((low || high >= 0) && (rows.label[row] < 0 || above < low)) continue;
      if (high >= 0 && above >= high) continue;
      if (fits(row) && (!name || text[row].includes(name))) found.push(row);
    }
    found.sort(orders[order]);
    return {
      total: found.length,
      row: (at) => whole(found[at]),
      rows: (first, last) => found.slice(first, last).map(whole),
    };
  };
  const change = ({ row, given: labels, marked: mark }) => {
    if (labels !== (given.get(row) ?? null)) unsaved.add("given");
    if (mark !== marked.has(row)) unsaved.add("marked");
    if (labels) given.set(row, labels);
    else given.delete(row);
    if (mark) marked.add(row);
    else marked.delete(row);
  };

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
    const quoted = (value) => `"${value.replaceAll('"', '""')}"`;
    download("labels.csv", "text/csv", ["uri,label,labelled_before", ...inOrder(given.keys()).map((row) => [
      quoted(rows.uri[row]),
      quoted(given.get(row).map((each) => rows.labels[each]).join(";") || ";"),
      labelled(row) >= 0 ? quoted(rows.labels[labelled(row)]) : "",
    ].join(","))]);
    unsaved.delete("given");
  });
  saveMarked.addEventListener("click", () => {
    download("marked.txt", "text/plain", inOrder(marked).map((row) => rows.uri[row]));
    unsaved.delete("marked");
  });
  addEventListener("beforeunload", (event) => { if (unsaved.size) event.preventDefault(); });
  const tell = () => {
    save.disabled = !given.size;
    save.textContent = given.size ? `Save ${counted(given.size, "new label")}` : "Save new labels";
    saveMarked.disabled = !marked.size;
    saveMarked.textContent = marked.size ? `Save ${number(marked.size)} marked` : "Save marked";
  };
  return {
    labels: rows.labels,
    errors: rows.errors,
    codes: rows.errors.map((_, i) => i).filter((i) => rows.error.includes(i)),
    truth: rows.truth !== null,
    several: rows.has !== null,
    other: rows.other !== null,
    count: rows.uri.length,
    search,
    load: (image, picture_) => { image.src = picture_; },
    change,
    tell,
  };
};
