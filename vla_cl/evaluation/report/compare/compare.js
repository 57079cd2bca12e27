"use strict";
// Everything is in the page already. This chooses what is shown, and says again what depends on the choice: the Pareto
// front, the labels that have room, and ranks.

const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const byRun = document.getElementById("by-run");
const words = document.getElementById("words");
const task = document.getElementById("task");
const facets = [...form.querySelectorAll(".facet")];
const owned = [...document.querySelectorAll("[data-run], [data-row], [data-task]")];
const FAILURES_AT_ONCE = 30;
let allFailures = false;

// --- what is chosen ---------------------------------------------------------------------------------------------

function chosenOf(facet) {
  return [...facet.querySelectorAll("input:checked")].map(box => box.value);
}

function chosenRuns() {
  const sought = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = facets.map(facet => [facet.dataset.key, chosenOf(facet)]);
  return data.runs.map(run =>
    wanted.every(([key, values]) => !values.length || values.includes(run[key])) &&
    sought.every(word => run.text.includes(word)));
}

function apply() {
  const runs = chosenRuns();
  const rows = data.rows.map((_, row) => data.runs.some((run, index) => run.row === row && runs[index]));
  const partial = data.runs.some((run, index) => rows[run.row] && !runs[index]);
  byRun.disabled = partial;
  document.body.dataset.by = partial || byRun.checked ? "runs" : "rows";
  for (const element of owned) {
    const {run, row, task: name} = element.dataset;
    const shown = (run === undefined || runs[run]) && (row === undefined || rows[row]) &&
      (name === undefined || !task?.value || name === task.value);
    element.toggleAttribute("hidden", !shown);
  }
  for (const facet of facets) {
    facet.querySelector(".facet-chosen").textContent = chosenOf(facet).join(", ") || "all";
  }
  const count = runs.filter(Boolean).length;
  document.getElementById("count").textContent = `${count} of ${runs.length} runs`;
  document.getElementById("nothing").hidden = count > 0;
  document.querySelectorAll("[data-section]").forEach(section => { section.hidden = !count; });
  document.querySelectorAll(".group").forEach(group => {
    group.hidden = ![...group.querySelectorAll(".results tbody tr")].some(line => !line.hidden);
  });
  document.querySelectorAll(".task-films").forEach(films => {
    if (![...films.querySelectorAll(".pair")].some(pair => !pair.hidden)) films.hidden = true;
  });
  document.querySelectorAll(".ranks").forEach(table => rank(table, rows));
  document.querySelectorAll(".scatter").forEach(drawFront);
  limitFailures();
}

/** Of a long list, the first lines; the button shows the rest. */
function limitFailures() {
  const button = document.getElementById("more-failures");
  const lines = [...document.querySelectorAll("#failure-lines tr:not([hidden])")];
  const more = allFailures ? [] : lines.slice(FAILURES_AT_ONCE);
  more.forEach(line => { line.hidden = true; });
  if (button) {
    button.hidden = !more.length;
    button.textContent = `Show ${more.length} more`;
  }
}

// --- ranks ------------------------------------------------------------------------------------------------------

/** Places of numbers, 1 for the highest; equal ones share the mean of their places. */
function places(values) {
  return values.map(value => {
    const above = values.filter(other => other > value).length;
    const equal = values.filter(other => other === value).length;
    return above + (equal + 1) / 2;
  });
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1), low = Math.floor(at), high = Math.ceil(at);
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

function rank(table, rows) {
  const lines = [...table.tBodies[0].rows];
  const shown = lines.filter(line => rows[line.dataset.row]);
  const known = shown.map(line => data.rows[line.dataset.row]);
  if (!known.length) return;
  const place = places(known.map(row => row.mean));
  const drawn = known[0].samples.map((_, sample) => places(known.map(row => row.samples[sample])));
  const position = value => `${known.length > 1 ? 100 * (value - 1) / (known.length - 1) : 50}%`;
  shown.forEach((line, index) => {
    const sorted = drawn.map(sample => sample[index]).sort((a, b) => a - b);
    const low = quantile(sorted, 0.025), high = quantile(sorted, 0.975);
    const text = `${+place[index].toFixed(1)} [${+low.toFixed(1)}, ${+high.toFixed(1)}]`;
    line.querySelector(".rank").textContent = text;
    line.querySelector(".range").style.left = position(low);
    line.querySelector(".range").style.right = `calc(100% - ${position(high)})`;
    line.querySelector(".dot").style.left = position(place[index]);
    const cell = document.querySelector(`#row-${line.dataset.row} .rank`);
    cell.textContent = text;
    cell.dataset.value = place[index];
  });
  const order = new Map(shown.map((line, index) => [line, place[index]]));
  lines.sort((a, b) => (order.get(a) ?? Infinity) - (order.get(b) ?? Infinity));
  table.tBodies[0].append(...lines);
}

// --- plots ------------------------------------------------------------------------------------------------------

function visiblePoints(plot) {
  const unit = document.body.dataset.by === "runs" ? ".of-run" : ".of-row";
  return [...plot.querySelectorAll(`.point${unit}:not([hidden])`)]
    .map(element => ({element, x: +element.dataset.x, y: +element.dataset.y}))
    .sort((a, b) => a.x - b.x || a.y - b.y);
}

/** Mark what no other point beats in both directions, join it by steps, and label what has room. */
function drawFront(plot) {
  const points = visiblePoints(plot);
  plot.querySelectorAll(".point").forEach(element => element.classList.remove("best"));
  const corners = [];
  let best = Infinity;  // SVG counts downwards
  for (const point of points) {
    point.best = point.y < best;
    if (point.best) {
      if (corners.length) corners.push(`${point.x},${best}`);
      corners.push(`${point.x},${point.y}`);
      best = point.y;
    }
    point.element.classList.toggle("best", point.best);
  }
  plot.querySelector(".front").setAttribute("points", corners.join(" "));
  const focus = points.find(point => point.element.getAttribute("tabindex") === "0") ?? points[0];
  plot.querySelectorAll(".point").forEach(element => element.setAttribute("tabindex", "-1"));
  focus?.element.setAttribute("tabindex", "0");
  placeLabels(plot, points);
}

function placeLabels(plot, points) {
  const {width: edge, height} = plot.viewBox.baseVal;
  const taken = points.map(({x, y}) => [x - 4, y - 4, x + 4, y + 4]);
  taken.push([0, height - 38, edge, height]);  // the ticks below
  for (const point of [...points].sort((a, b) => b.best - a.best)) {
    const label = point.element.querySelector(".label");
    const width = label.getComputedTextLength();
    const spots = [[7, 3.5, "start"], [-7, 3.5, "end"], [0, -7, "middle"], [0, 14, "middle"], [6, -6, "start"], [-6, -6, "end"]];
    let found = null;
    for (const [dx, dy, anchor] of spots) {
      const left = point.x + dx - {start: 0, middle: width / 2, end: width}[anchor];
      const box = [left, point.y + dy - 9, left + width, point.y + dy + 2];
      const free = left > 0 && box[2] < edge && taken.every(
        other => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
      if (free) {
        found = {dx, dy, anchor, box};
        break;
      }
    }
    const {dx, dy, anchor} = found ?? (point.x > edge / 2 ?
      {dx: -7, dy: 3.5, anchor: "end"} : {dx: 7, dy: 3.5, anchor: "start"});
    label.setAttribute("x", point.x + dx);
    label.setAttribute("y", point.y + dy);
    label.setAttribute("text-anchor", anchor);
    point.element.classList.toggle("crowded", !found);
    if (found) taken.push(found.box);
  }
}

for (const plot of document.querySelectorAll(".scatter")) {
  const told = plot.closest("figure").querySelector(".pointed");
  const tell = event => {
    const point = event.target.closest(".point");
    if (point) told.textContent = point.getAttribute("aria-label");
  };
  plot.addEventListener("pointerover", tell);
  plot.addEventListener("focusin", tell);
  plot.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const points = visiblePoints(plot).map(point => point.element);
    const at = points.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = points[(at + step + points.length) % points.length];
    points[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

// --- sorting ----------------------------------------------------------------------------------------------------

function sort(button) {
  const head = button.closest("th"), body = button.closest("table").tBodies[0], column = +button.dataset.column;
  const value = line => {
    const text = line.cells[column].dataset.value;
    return text === "" ? null : column ? +text : text;
  };
  const first = column ? "descending" : "ascending";
  const second = column ? "ascending" : "descending";
  const direction = head.getAttribute("aria-sort") === first ? second : first;
  button.closest("tr").querySelectorAll("th").forEach(each => each.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const lines = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);  // what is missing comes last
    return sign * (column ? x - y : x.localeCompare(y));
  });
  body.append(...lines);
}

// --- films -------------------------------------------------------------------------------------------------------

let playing = false;

function start(film) {
  film.play().catch(() => {});  // it may leave the window before it has begun
}

// Browsers play some dozens of films at once and no more, so a film is loaded while it is near the window.
const nearby = new IntersectionObserver(entries => {
  for (const {target: film, isIntersecting} of entries) {
    if (isIntersecting) {
      film.src = film.dataset.source;
      if (playing) start(film);
    } else if (film.hasAttribute("src")) {
      film.removeAttribute("src");
      film.load();
    }
  }
}, {rootMargin: "200px"});
document.querySelectorAll("video").forEach(film => nearby.observe(film));

document.getElementById("play")?.addEventListener("click", event => {
  playing = !playing;
  event.target.textContent = playing ? "Pause all" : "Play all";
  document.querySelectorAll("video[src]").forEach(film => {
    film.currentTime = 0;
    if (playing) start(film);
    else film.pause();
  });
});

// --- events -----------------------------------------------------------------------------------------------------

form.addEventListener("input", apply);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(apply));
document.getElementById("show-all").addEventListener("click", () => form.reset());
document.addEventListener("click", event => {
  facets.filter(facet => !facet.contains(event.target)).forEach(facet => { facet.open = false; });
  if (event.target.matches(".sort, .sort *")) sort(event.target.closest(".sort"));
});
document.addEventListener("keydown", event => {
  const facet = event.key === "Escape" && document.activeElement?.closest(".facet");
  if (facet) {
    facet.open = false;
    facet.querySelector("summary").focus();
  }
});
for (const facet of facets) {
  facet.addEventListener("focusout", event => {
    if (event.relatedTarget && !facet.contains(event.relatedTarget)) facet.open = false;
  });
}
document.querySelectorAll("input[name=curve]").forEach(choice => {
  choice.addEventListener("change", () => { document.body.dataset.curve = choice.value; });
});
document.getElementById("more-failures")?.addEventListener("click", () => {
  allFailures = true;
  apply();
});
document.getElementById("forgotten-only")?.addEventListener("change", event => {
  document.body.dataset.forgotten = event.target.checked ? "only" : "";
});
apply();
