const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const number = new Intl.NumberFormat("en-US").format;
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const percent = (share) => {
  const text = (100 * share).toFixed(1);
  if (share < 1 && text === "100.0") return "99.9%";
  if (share > 0 && text === "0.0") return "<0.1%";
  return text + "%";
};
// Light and dark
const theme = document.getElementById("theme");
const root = document.documentElement;
const memory = {
  get: () => { try { return localStorage.getItem("catdog-theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("catdog-theme", value); } catch { /* private */ } },
};
const isDark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
if (["light", "dark"].includes(memory.get())) root.dataset.theme = memory.get();
theme.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  memory.set(root.dataset.theme);
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();

// A picture by itself. Text of strangers goes into textContent only.
const dialog = document.getElementById("dialog");
const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
// about: title, image (an <img> or nothing), scores ([label, score], ...), facts ([term, text], ...), keys (a text
// or nothing).
const showPicture = (about) => {
  document.getElementById("dialog-title").textContent = about.title;
  document.getElementById("dialog-picture").replaceChildren(...(about.image ? [about.image] : []));
  document.getElementById("dialog-scores").replaceChildren(...about.scores.map(([label, score]) => {
    const row = element("tr");
    const header = element("th", label);
    header.scope = "row";
    const bar = element("span", undefined, "bar");
    bar.setAttribute("aria-hidden", "true");
    bar.style.setProperty("--share", score);
    const cell = element("td", undefined, "wide");
    cell.append(bar);
    row.append(header, element("td", percent(score), "n"), cell);
    return row;
  }));
  document.getElementById("dialog-about").replaceChildren(...about.facts
    .filter(([, text]) => text)
    .map(([term, text]) => {
      const line = element("div");
      const value = element("dd");
      value.append(element("bdi", text, term === "File" ? "path" : undefined));
      line.append(element("dt", term), value);
      return line;
    }));
  const keys = document.getElementById("dialog-keys");
  keys.textContent = about.keys ?? "";
  keys.hidden = !about.keys;
  if (!dialog.open) dialog.showModal();
};
for (const button of all(".thumb")) {
  button.setAttribute("aria-haspopup", "dialog");
  button.addEventListener("click", () => {
    const about = JSON.parse(button.dataset.about);
    const image = find("img", button);
    showPicture({
      title: button.dataset.label,
      image: image && image.cloneNode(),
      scores: about.scores,
      facts: [["File", about.uri], ["Image", about.image], ["Labelled", about.truth],
        ["Trouble", about.trouble]],
    });
  });
}
document.getElementById("dialog-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// On paper everything is open.
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  opened.forEach((each) => { each.open = true; });
});
addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
