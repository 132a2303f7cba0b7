// The rows of `catdog review`: its server searches and sorts them, and gives those that come into view; it saves
// new labels and marks as they are made.
const openRows = async () => {
  const content = JSON.parse(document.getElementById("review-data").textContent);
  const saved = document.getElementById("saved");
  const BLOCK = 100; // rows that are fetched together
  const KEPT = 200; // blocks
  const PAUSE_MS = 80; // in which keys are pressed, and the bar is pulled past what nobody looks at
  let searches = 0;
  let told = content.said;
  let saving = Promise.resolve();

  const pause = () => new Promise((done) => { setTimeout(done, PAUSE_MS); });
  const ask = async (path, options) => {
    const answer = await fetch(path, options);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  };
  const tell = () => { if (saved.textContent !== told) saved.textContent = told; };
  const troubled = (error, redraw) => {
    told = `Not done: ${error.message}. Is catdog review still running?`;
    (redraw ?? tell)();
  };

  const search = async (query, redraw) => {
    const mine = ++searches;
    if (mine > 1) await pause();
    if (mine !== searches) return undefined;
    const about = new URLSearchParams({ ...query, search: `${content.page}-${mine}` });
    const blocks = new Map();
    let waiting;
    const load = async (block) => {
      blocks.set(block, []);
      try {
        const answer = await ask(`rows?${about}&start=${block * BLOCK}&count=${BLOCK}`);
        blocks.set(block, answer.rows);
        return answer.found;
      } catch (error) {
        blocks.delete(block);
        throw error;
      }
    };
    const row = (at) => blocks.get(Math.floor(at / BLOCK))?.[at % BLOCK];
    const rows = (first, last) => {
      clearTimeout(waiting);
      const missing = [];
      for (let block = Math.floor(first / BLOCK); block * BLOCK < last; block++) {
        if (!blocks.has(block)) missing.push(block);
      }
      if (missing.length) {
        waiting = setTimeout(async () => {
          while (blocks.size > KEPT) blocks.delete(blocks.keys().next().value);
          try {
            await Promise.all(missing.map(load));
            redraw();
          } catch (error) {
            troubled(error);
          }
        }, PAUSE_MS);
      }
      return Array.from({ length: last - first }, (_, i) => row(first + i));
    };
    try {
      return { total: await load(0), row, rows };
    } catch (error) {
      troubled(error);
      return undefined;
    }
  };
  // A browser has six connections to a server: pictures that take long must leave some to rows and labels.
  const seen = new Set();
  const wanted = [];
  let loading = 0;
  const loadNext = () => {
    while (loading < 3 && wanted.length) {
      const [image, picture] = wanted.pop(); // the latest first
      if (!image.isConnected) continue;
      loading += 1;
      image.onload = image.onerror = () => { loading -= 1; seen.add(picture); loadNext(); };
      image.src = picture;
    }
  };
  const load = (image, picture) => {
    if (seen.has(picture)) { // the browser has it
      image.src = picture;
      return;
    }
    wanted.push([image, picture]);
    if (wanted.length === 1) requestAnimationFrame(loadNext); // by then the image is in the page
  };
  const change = ({ id, given, marked }) => {
    const body = JSON.stringify({ id, given, marked });
    // One after the other: the last key of a row decides.
    saving = saving.then(async () => {
      try {
        told = (await ask("marks", { method: "POST", body })).said;
        tell();
      } catch (error) {
        troubled(error);
      }
    });
  };
  return { ...content, search, load, change, tell };
};
