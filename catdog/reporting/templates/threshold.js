// The threshold
const data = JSON.parse(document.getElementById("data").textContent);
const sum = (counts) => counts.reduce((a, b) => a + b, 0);
// kept[t]: how many are at or above threshold number t.
const suffixSums = (counts) => {
  const kept = counts.slice();
  for (let i = kept.length - 2; i >= 0; i--) kept[i] += kept[i + 1];
  return kept;
};
const slider = document.getElementById("threshold");
if (slider) {
  const rows = new Map();
  data.labels.forEach((label, i) => rows.set(String(i), suffixSums(label.counts)));
  if (data.others) rows.set("others", suffixSums(data.others));
  const kept = data.thresholds.map((_, t) => sum([...rows.values()].map((counts) => counts[t])));
  const total = kept[0];
  const right = data.right && suffixSums(data.right);
  const known = data.known && suffixSums(data.known);
  const items = all(".item");
  const plots = all(".distribution").map((figure) => ({
    bars: all('[id*="-bar-"]', figure),
    mark: find('[id$="-mark"]', figure),
    ...Object.fromEntries(Object.entries(figure.dataset).map(([key, text]) => [key, Number(text)])),
  }));
  const name = (t) => (t === 0 ? "off" : percent(data.thresholds[t]));

  const sortGalleries = (threshold) => {
    const order = find('input[name="order"]:checked');
    const key = {
      certain: (p) => -p,
      doubtful: (p) => p,
      near: (p) => Math.abs(p - threshold),
    }[order ? order.value : "certain"];
    for (const list of all(".gallery.sortable")) {
      const sorted = all(".item", list).sort((a, b) => key(a.dataset.p) - key(b.dataset.p));
      if (sorted.some((item, i) => item !== list.children[i])) list.append(...sorted);
    }
  };

  const update = () => {
    const t = Number(slider.value);
    const threshold = data.thresholds[t];
    slider.setAttribute("aria-valuetext", name(t));
    document.getElementById("threshold-value").textContent = name(t);
    let text = `${number(kept[t])} of ${counted(total, "image")} ${kept[t] === 1 ? "keeps its" : "keep their"} label`;
    if (known && known[t]) text += `, ${percent(right[t] / known[t])} of them right`;
    document.getElementById("threshold-effect").textContent = text;
    for (const row of all("[data-label-row]")) {
      const id = row.dataset.labelRow;
      const count = id === "uncertain" ? total - kept[t] : rows.get(id)[t];
      find(".count", row).textContent = number(count);
      find(".share", row).textContent = percent(count / total);
      find(".bar", row).style.setProperty("--share", count / total);
    }
    for (const heading of all(".gallery-count")) {
      const counts = rows.get(heading.dataset.number);
      if (counts) {
        heading.textContent = counts[t] === counts[0]
          ? counted(counts[0], "image")
          : `${number(counts[t])} of ${counted(counts[0], "image")} at ${name(t)} or more`;
      }
    }
    for (const item of items) {
      item.classList.toggle("below", Math.fround(item.dataset.p) < Math.fround(threshold));
    }
    for (const { bars, mark, x0, x1, low, high } of plots) {
      const across = Math.max(0, (threshold - low) / (high - low));
      mark.style.transform = `translateX(${across * (x1 - x0)}px)`;
      for (const bar of bars) {
        const start = Number(bar.id.split("-bar-")[1]) / bars.length;
        bar.classList.toggle("below", start + 0.5 / bars.length < across);
      }
    }
    sortGalleries(threshold);
  };
  slider.addEventListener("input", () => requestAnimationFrame(update));
  for (const button of all("[data-threshold]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      slider.value = data.thresholds.findIndex((each) => each >= Number(button.dataset.threshold));
      update();
    });
  }
  const order = document.getElementById("order");
  if (order) {
    order.hidden = false;
    order.addEventListener("change", () => sortGalleries(data.thresholds[slider.value]));
  }
  document.getElementById("toolbar").hidden = false;
  update();
}
