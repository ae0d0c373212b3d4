"use strict";
// The leaderboard and the runs are in the page; here they are sorted and filtered, and charts drawn.
const data = JSON.parse(document.getElementById("data").textContent);
const finished = data.runs.filter((run) => run.status === "finished");
const DASHES = ["none", "7 3", "2 3", "9 3 2 3"];
const COLOURS = 8;
const SVG = "http://www.w3.org/2000/svg";
let numbered = 0; // ids of charts

// Elements
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null));
  return node;
}
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const text = (x, y, anchor, content, more = {}) => svg("text", { x, y, "text-anchor": anchor, ...more }, content);

// Figures
const natural = (one, other) => one.localeCompare(other, "en", { numeric: true });
const figure = (value, digits = 3) =>
  value === null || value === undefined ? "–" : number(value) === Infinity ? "∞" : number(value).toFixed(digits);
const number = (value) => (value === "inf" ? Infinity : Number(value));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const facets = (run) => data.conditions[run.condition].facets;
const label = (run) => data.conditions[run.condition].label;
const named = (run) => `${facets(run).experiment} · ${label(run)} · ${facets(run).partition} · seed ${run.seed}`;
const link = (run) => html("a", { href: `#run-${run.id}` }, named(run));
const bytes = (count) => count === null ? "–" : (count / 1e6).toFixed(count < 1e8 ? 1 : 0);

// Groups of the items by a key, in its order
function grouped(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return new Map([...groups].sort(([one], [other]) => (typeof one === "string" ? natural(one, other) : one - other)));
}

// Styles: a colour, a dash and a marker, the same for a name within its family. Sixteen differ without
// their colours.
const families = {};
function style(name, family) {
  const places = (families[family] ??= new Map());
  if (!places.has(name)) places.set(name, places.size);
  const place = places.get(name);
  return { colour: `var(--c${place % COLOURS})`, dash: place % 4, shape: (place + Math.floor(place / 4)) % 4 };
}
[...data.conditions]
  .sort((one, other) => natural(one.label, other.label))
  .forEach((condition) => style(condition.label, condition.facets.experiment));

function marker(x, y, { colour, shape }, size = 4) {
  const s = size;
  const shapes = [
    () => svg("circle", { cx: x, cy: y, r: s }),
    () => svg("rect", { x: x - s, y: y - s, width: 2 * s, height: 2 * s }),
    () => svg("path", { d: `M${x} ${y - s * 1.3}l${s * 1.3} ${s * 2.2}h${-s * 2.6}z` }),
    () => svg("path", { d: `M${x} ${y - s * 1.4}l${s * 1.4} ${s * 1.4}l${-s * 1.4} ${s * 1.4}l${-s * 1.4} ${-s * 1.4}z` }),
  ];
  return fill(shapes[shape](), { fill: colour, stroke: "var(--bg)", "stroke-width": 1 }, []);
}

function line(points, { colour, dash }, width = 2) {
  const path = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return svg("path", { d: path, fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": DASHES[dash] });
}

// Axes
const BOX = { left: 46, right: 12, top: 10, bottom: 40, width: 420, height: 280 };

function steps(low, high, count = 5) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw - 1e-12);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, at) => +((first + at) * step).toPrecision(6));
}

// A scale from values to pixels; infinity has a place of its own behind the last value.
function scale(values, from, to, { log = false, low = null, high = null } = {}) {
  const known = values.filter((v) => Number.isFinite(v));
  const endless = known.length < values.length;
  const turn = log ? Math.log : (v) => v;
  let [least, most] = [low ?? Math.min(...known), high ?? Math.max(...known)];
  if (!known.length) [least, most] = [1, 2];
  if (least === most) [least, most] = log ? [least / 2, most * 2] : [least - 0.5, most + 0.5];
  const end = endless ? from + (to - from) * 0.82 : to;
  const inset = log ? (end - from) * 0.06 : 0;
  const at = (v) =>
    Number.isFinite(v)
      ? from + inset + ((turn(v) - turn(least)) / (turn(most) - turn(least))) * (end - from - 2 * inset)
      : to - (to - from) * 0.05;
  at.ticks = log ? [...new Set(known)].sort((a, b) => a - b) : steps(least, most);
  if (endless) at.ticks = [...at.ticks, Infinity];
  return at;
}

function axes(x, y, xlabel, ylabel) {
  const { left, right, top, bottom, width, height } = BOX;
  const show = (v) => (v === Infinity ? "∞" : String(+v.toPrecision(3)));
  return svg(
    "g",
    {},
    y.ticks.map((v) => svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) })),
    y.ticks.map((v) => text(left - 6, y(v) + 4, "end", show(v))),
    x.ticks.map((v) => text(x(v), height - bottom + 16, "middle", show(v))),
    text((left + width - right) / 2, height - 6, "middle", xlabel),
    text(12, (top + height - bottom) / 2, "middle", ylabel, { transform: `rotate(-90 12 ${(top + height - bottom) / 2})` }),
  );
}

// Charts: a picture, what it says in words, a legend, and its numbers as a table
function table(head, rows, caption) {
  const numeric = (cell) => typeof cell === "string" && /^([\d.,∞ [\]]+|–|not reached)$/.test(cell);
  const wide = head.map((_, at) => rows.every((row) => numeric(row[at])));
  const cell = (value, at) => html(at ? "td" : "th", at ? (wide[at] ? { class: "number" } : {}) : { scope: "row" }, value);
  const names = head.map((name, at) => html("th", { scope: "col", ...(wide[at] ? { class: "number" } : {}) }, name));
  return html(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    html(
      "table",
      {},
      html("caption", {}, caption),
      html("thead", {}, html("tr", {}, names)),
      html("tbody", {}, rows.map((row) => html("tr", {}, row.map(cell)))),
    ),
  );
}

function chart(title, says, drawn, height, legend, head, rows) {
  const id = `chart-${++numbered}`;
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${BOX.width} ${height}`, role: "img", "aria-labelledby": `${id}-t ${id}-d` },
    svg("title", { id: `${id}-t` }, title),
    svg("desc", { id: `${id}-d` }, says),
    drawn,
  );
  const keys = [...legend].map(([name, key]) =>
    html("li", {}, svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" }, key.bare ? null : line([[0, 6], [30, 6]], key), marker(15, 6, key)), name),
  );
  const numbers = html("details", {}, html("summary", {}, "numbers"));
  numbers.addEventListener("toggle", () => numbers.append(table(head, rows(), title)), { once: true });
  return html("figure", {}, html("figcaption", {}, title), picture, keys.length ? html("ul", { class: "legend" }, keys) : null, numbers);
}

const box = () => [BOX.left, BOX.width - BOX.right, BOX.height - BOX.bottom, BOX.top];

// Learning: a panel for each data and partition, a line for each condition
function learning(runs) {
  const able = runs.filter((run) => run.learning.length > 1);
  const values = able.flatMap((run) => run.learning.map((point) => point[1]));
  const panels = grouped(able, (run) => `${facets(run).experiment} · ${facets(run).dataset} · ${facets(run).partition}`);
  return [...panels].map(([title, mine]) => {
    const [left, right, low, high] = box();
    const x = scale(mine.flatMap((run) => run.learning.map((point) => point[0])), left, right);
    x.ticks = x.ticks.filter(Number.isInteger);
    const y = scale(values, low, high);
    const look = (name) => style(name, facets(mine[0]).experiment);
    const at = ([round, value]) => [x(round), y(value)];
    const lines = [...grouped(mine, label)].map(([name, seeds]) => {
      const rounds = [...grouped(seeds.flatMap((run) => run.learning), (point) => point[0])];
      const middle = rounds.filter(([, points]) => points.length === seeds.length).map(([r, points]) => [r, mean(points.map((p) => p[1]))]);
      return { name, seeds, middle };
    });
    const drawn = lines.map(({ name, seeds, middle }) => [
      seeds.length > 1 ? seeds.map((run) => fill(line(run.learning.map(at), look(name), 1), { opacity: 0.4 }, [])) : [],
      line(middle.map(at), look(name), 2),
      middle.length ? marker(...at(middle.at(-1)), look(name)) : [],
    ]);
    const last = lines.filter((l) => l.middle.length).map((l) => `${l.name} ${figure(l.middle.at(-1)[1])}`);
    return chart(title, `Test macro AUROC by round. At the end: ${last.join("; ")}.`,
      [axes(x, y, "round", "test macro AUROC"), drawn], BOX.height, lines.map((l) => [l.name, look(l.name)]),
      ["condition", "seed", "round", "AUROC"],
      () => mine.flatMap((run) => run.learning.map(([r, v]) => [label(run), String(run.seed), String(r), figure(v)])));
  });
}

// Privacy: claimed ε against AUROC, a panel for each unit; runs of no unit are the reference at ∞
function utility(runs) {
  const done = runs.filter((run) => run.status === "finished" && run.auroc !== null);
  const panels = grouped(done.filter((run) => run.unit !== "none"), (run) => `${run.unit} · ${facets(run).experiment} · ${facets(run).dataset}`);
  return [...panels].map(([title, mine]) => {
    const { experiment, dataset, partition } = facets(mine[0]);
    const alike = (run) => facets(run).experiment === experiment && facets(run).dataset === dataset && facets(run).partition === partition;
    const all = [...mine, ...done.filter((run) => run.unit === "none" && alike(run))];
    const claim = (run) => (run.unit === "none" ? Infinity : number(run.epsilon));
    const short = (run) => [facets(run).strategy, facets(run).partition].join(" · ") + (run.unit === "none" ? " · no privacy" : "");
    const [left, right, low, high] = box();
    const x = scale(all.map(claim), left, right, { log: true });
    x.ticks = thinned(x);
    const y = scale(all.flatMap((run) => [run.auroc, ...run.interval.filter((v) => v !== null), 0.5]), low, high);
    const drawn = all.map((run) => {
      const place = x(claim(run));
      const known = run.interval[0] !== null;
      return svg("g", {}, svg("title", {}, `${named(run)}: ε ${figure(claim(run), 2)}, AUROC ${figure(run.auroc)}`),
        known ? svg("line", { x1: place, x2: place, y1: y(run.interval[0]), y2: y(run.interval[1]), stroke: style(short(run), title).colour, "stroke-width": 1.5 }) : null,
        marker(place, y(run.auroc), style(short(run), title), 4.5));
    });
    const trends = [...grouped(all, short)].map(([name, points]) => {
      const means = [...grouped(points, claim)].map(([e, at]) => [e, mean(at.map((run) => run.auroc))]);
      return line(means.map(([e, v]) => [x(e), y(v)]), style(name, title), 1.2);
    });
    const says = all.map((run) => `ε ${figure(claim(run), 2)}: ${figure(run.auroc)}`).join("; ");
    const guide = svg("line", { class: "guide", x1: left, x2: right, y1: y(0.5), y2: y(0.5) });
    return chart(`unit: ${title}`, `Test macro AUROC by claimed ε. ${says}.`,
      [axes(x, y, "claimed ε, δ as in the run", "test macro AUROC"), guide, trends, drawn], BOX.height,
      [...grouped(all, short).keys()].map((name) => [name, style(name, title)]), ["run", "claimed ε", "δ", "AUROC", "95 %"],
      () => all.map((run) => [link(run), figure(claim(run), 2), String(run.delta ?? "–"), figure(run.auroc), `[${run.interval.map((v) => figure(v)).join(", ")}]`]));
  });
}

// Ticks that do not run into each other
function thinned(at) {
  let last = -Infinity;
  return at.ticks.filter((v) => at(v) - last > 26 && ((last = at(v)), true));
}

function audited(runs) {
  const points = runs.filter((run) => run.audited).flatMap((run) => run.audited.bounds.map((bound) => ({ run, ...bound })));
  if (!points.length) return [html("p", { class: "small" }, "None of these runs has an audited bound: fedmed audit gives one to runs with canaries.")];
  const claims = points.map((p) => number(p.run.epsilon ?? "inf"));
  const most = Math.max(1, ...claims.filter(Number.isFinite), ...points.map((p) => number(p.epsilon))) * 1.1;
  const [left, right, low, high] = box();
  const x = scale(claims, left, right, { low: 0, high: most });
  const y = scale(points.map((p) => p.epsilon), low, high, { low: 0, high: most });
  const name = (p) => `${p.access}, ${p.method}`;
  const names = [...grouped(points, name).keys()];
  const aside = (bound) => (names.indexOf(bound) - (names.length - 1) / 2) * 6; // side by side, to be seen
  const diagonal = svg("line", { class: "guide", x1: x(0), y1: y(0), x2: x(most), y2: y(most) });
  const drawn = points.map((p, at) => svg("g", {}, svg("title", {}, `${named(p.run)}: ${name(p)}, at least ${figure(p.epsilon, 2)} of ${figure(claims[at], 2)}`), marker(x(claims[at]) + aside(name(p)), y(p.epsilon), style(name(p), "bound"), 5)));
  const says = points.map((p, at) => `claimed ${figure(claims[at], 2)}, ${name(p)} at least ${figure(p.epsilon, 2)}`).join("; ");
  const keys = names.map((n) => [n, { ...style(n, "bound"), bare: true }]);
  return [chart("audited lower bounds", `Lower bounds on ε by claimed ε. ${says}.`, [axes(x, y, "claimed ε", "audited ε, at least"), diagonal, drawn], BOX.height, keys,
    ["run", "unit", "claimed ε", "access", "bound", "ε, at least", "confidence", "canaries", "rests on", "refuted"],
    () => points.map((p, at) => [link(p.run), p.run.unit, figure(claims[at], 2), p.access, p.method, figure(p.epsilon, 2), String(p.confidence), String(p.canaries), p.rests_on, p.run.audited.refuted ? "yes" : "no"]))];
}

// One run: ROC, reliability, subgroups
function depth(run) {
  if (!run) return [];
  const [left, right, low, high] = box();
  const unit = { low: 0, high: 1 };
  const [x, y] = [scale([0, 1], left, right, unit), scale([0, 1], low, high, unit)];
  const diagonal = svg("line", { class: "guide", x1: x(0), y1: y(0), x2: x(1), y2: y(1) });
  const findings = Object.entries(run.findings);
  const keys = findings.map(([name]) => [name, style(name, "finding")]);
  const roc = findings.map(([name, { roc: points }]) => line(points.map(([f, t]) => [x(f), y(t)]), style(name, "finding")));
  const bins = findings.map(([name, { reliability: r }]) => {
    const points = r.score.map((s, at) => [x(s), y(r.observed[at])]);
    return [line(points, style(name, "finding"), 1.2), points.map((p, at) => svg("g", {}, svg("title", {}, `${name}: ${r.images[at]} images`), marker(...p, style(name, "finding"), 3)))];
  });
  const names = findings.map(([name]) => name).join(", ");
  return [
    chart("ROC", `Sensitivity by false-positive rate of ${names}, on test images.`, [axes(x, y, "false-positive rate", "sensitivity"), diagonal, roc], BOX.height,
      keys, ["finding", "false-positive rate", "sensitivity"],
      () => findings.flatMap(([name, { roc: points }]) => points.map(([f, t]) => [name, figure(f), figure(t)]))),
    chart("Reliability", `Share observed by mean predicted probability, in ten bins, of ${names}.`, [axes(x, y, "predicted", "observed"), diagonal, bins], BOX.height,
      keys, ["finding", "predicted", "observed", "images"],
      () => findings.flatMap(([name, { reliability: r }]) => r.score.map((s, at) => [name, figure(s), figure(r.observed[at]), String(r.images[at])]))),
    subgroups(run),
  ];
}

function subgroups(run) {
  const by = Object.entries(run.subgroups.by).filter(([, found]) => found.worst !== null);
  if (!by.length) return html("p", { class: "small" }, "No subgroup of the test patients is large enough to be scored.");
  const values = by.flatMap(([, found]) => Object.values(found.macro_auroc));
  const [left, right, top, row] = [130, BOX.width - 20, 14, 30];
  const height = top + by.length * row + 36;
  const x = scale(values, left, right);
  const [plain, worst] = [{ colour: "var(--c0)", shape: 0 }, { colour: "var(--c1)", shape: 3 }];
  const drawn = by.map(([name, found], at) => {
    const y = top + at * row + 10;
    const ends = Object.values(found.macro_auroc).map(x);
    return [
      text(left - 12, y + 4, "end", name),
      svg("line", { class: "grid", x1: Math.min(...ends), x2: Math.max(...ends), y1: y, y2: y }),
      Object.entries(found.macro_auroc).map(([group, value]) =>
        svg("g", {}, svg("title", {}, `${name}, ${group}: ${figure(value)}`), marker(x(value), y, group === found.worst ? worst : plain, group === found.worst ? 5 : 3.5))),
      text(Math.min(Math.max(x(found.macro_auroc[found.worst]), left + 30), right - 30), y + 17, "middle", found.worst, { class: "value" }),
    ];
  });
  const ticks = x.ticks.map((v) => text(x(v), height - 18, "middle", String(v)));
  const says = by.map(([name, found]) => `by ${name} the worst is ${found.worst}, ${figure(found.macro_auroc[found.worst])}, gap ${figure(found.gap)} (by chance ${figure(found.chance)}, p ${figure(found.p)})`).join("; ");
  return chart("Subgroups", `Macro AUROC of groups: ${says}.`, [drawn, ticks, text((left + right) / 2, height - 2, "middle", "macro AUROC")], height,
    [["a group", { ...plain, bare: true }], ["the worst, named", { ...worst, bare: true }]], ["by", "group", "macro AUROC", "gap of its kind", "by chance", "p", "findings", "too small to count"],
    () => by.flatMap(([name, found]) => Object.entries(found.macro_auroc).map(([group, v]) => [name, group, figure(v), figure(found.gap), figure(found.chance), figure(found.p), String(found.findings.length), found.too_small.join(", ") || "–"])));
}

// Partitions: who has what
function partitions(runs) {
  const used = grouped(runs.filter((run) => run.partition), (run) => run.partition);
  const titled = [...used].map(([hash, [run]]) => [`${facets(run).experiment} · ${facets(run).partition} · seed ${run.seed}`, data.partitions[hash]]);
  return titled.sort(([one], [other]) => natural(one, other)).map(([title, found]) =>
    found.withheld ? html("figure", {}, html("figcaption", {}, title), html("p", { class: "small" }, `Withheld: ${found.withheld}.`)) : heat(title, found));
}

function heat(title, { targets, clients, patients, images, positive, gini, js }) {
  const [left, right, top] = [34, 300, 62];
  const row = Math.max(1.5, Math.min(22, 330 / clients.length));
  const column = (right - left) / targets.length;
  const height = top + row * clients.length + 10;
  const share = (k, t) => (100 * positive[k][t]) / Math.max(images[k], 1);
  const most = Math.max(...images);
  const read = row >= 13;
  const cells = clients.map((client, k) => [
    read || k % 10 === 0 ? text(left - 6, top + k * row + row / 2 + 4, "end", String(client)) : null,
    targets.map((_, t) => [
      svg("rect", { x: left + t * column, y: top + k * row, width: column - 1, height: Math.max(row - 1, 1), fill: "var(--c0)", "fill-opacity": (0.04 + 0.46 * Math.sqrt(share(k, t) / 100)).toFixed(3) }),
      read && column > 20 ? text(left + (t + 0.5) * column, top + k * row + row / 2 + 4, "middle", share(k, t).toFixed(0), { class: "value" }) : null,
    ]),
    svg("rect", { x: right + 10, y: top + k * row, width: (60 * images[k]) / most, height: Math.max(row - 1, 1), fill: "var(--c7)" }),
    read ? text(right + 14 + (60 * images[k]) / most, top + k * row + row / 2 + 4, "start", String(images[k])) : null,
  ]);
  const heads = targets.map((name, t) => text(left + (t + 0.5) * column - 4, top - 6, "start", name, { transform: `rotate(-35 ${left + (t + 0.5) * column - 4} ${top - 6})` }));
  const skew = `size Gini ${figure(gini, 2)}` + (js === null ? "" : `, mean Jensen–Shannon divergence to the pool ${figure(js)} bits`);
  const says = `${clients.length} clients; ${skew}.`;
  const drawn = chart(title, says, [heads, text(right + 10, top - 6, "start", "images"), text(left - 6, top - 6, "end", "client"), cells], height, [],
    ["client", "patients", "images", ...targets], () => clients.map((c, k) => [String(c), String(patients[k]), String(images[k]), ...positive[k].map(String)]));
  drawn.querySelector("svg").after(html("p", { class: "small" }, says));
  return drawn;
}

// Tables of runs
function fairness(runs) {
  const able = runs.filter((run) => run.subgroups?.worst);
  if (!able.length) return html("p", { class: "small" }, "No subgroup of these runs' test patients is large enough to be scored.");
  return table(["run", "AUROC", "worst group", "its AUROC", "widest gap", "by chance", "p", "between groups by"],
    able.map((run) => [link(run), figure(run.auroc), `${run.subgroups.worst.group} (${run.subgroups.worst.by})`, figure(run.subgroups.worst.macro_auroc),
      figure(run.subgroups.gap?.macro_auroc), figure(run.subgroups.gap?.chance), figure(run.subgroups.gap?.p), run.subgroups.gap?.by ?? "–"]), "Worst groups and widest gaps");
}

function cost(runs) {
  const done = runs.filter((run) => run.status === "finished");
  return table(["run", "rounds", "seconds", "MB", "to the target: rounds", "seconds", "MB"],
    done.map(({ cost: c, ...run }) => [link(run), String(c.rounds), figure(c.seconds, 1), bytes(c.bytes),
      ...(c.reached ? [String(c.reached.rounds), figure(c.reached.seconds, 1), bytes(c.reached.bytes)] : ["not reached", "–", "–"])]), "What the runs cost");
}

// Filters
const form = document.getElementById("filters");
const chosen = document.getElementById("run");
const place = (name) => document.querySelector(`[data-chart="${name}"], [data-table="${name}"]`);

function seen() {
  const wanted = [...new FormData(form)].filter(([, value]) => value);
  return data.conditions.map(({ facets: mine }) => wanted.every(([name, value]) => mine[name] === value));
}

function choose(runs) {
  const before = chosen.value;
  const best = runs.filter((run) => run.findings).sort((a, b) => b.auroc - a.auroc);
  chosen.replaceChildren(...best.map((run) => html("option", { value: run.id }, named(run))));
  if (best.some((run) => run.id === before)) chosen.value = before;
  dive();
}

function dive() {
  place("depth").replaceChildren(...depth(finished.find((run) => run.id === chosen.value)));
}

function show() {
  const visible = seen();
  const runs = data.runs.filter((run) => visible[run.condition]);
  for (const node of document.querySelectorAll("[data-condition]")) node.hidden = !visible[node.dataset.condition];
  document.getElementById("shown").textContent = `${runs.length} of ${data.runs.length} runs`;
  for (const [name, draw] of Object.entries({ learning, utility, audited, partitions })) {
    const drawn = draw(runs);
    place(name).replaceChildren(...(drawn.length ? drawn : [html("p", { class: "small" }, "Nothing to show of these runs.")]));
  }
  place("fairness").replaceChildren(fairness(runs));
  place("cost").replaceChildren(cost(runs));
  choose(runs);
}

// Sorting: what has no value goes last either way
function sort(button) {
  const head = button.closest("th");
  const up = head.getAttribute("aria-sort") === "descending" || (!head.ariaSort && !head.classList.contains("number"));
  const at = head.cellIndex;
  const rows = [...head.closest("table").tBodies[0].rows];
  const key = (row) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
  const numeric = head.classList.contains("number");
  rows.sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one === "" || other === "") return (one === "") - (other === "");
    const order = numeric ? number(one) - number(other) || 0 : natural(one, other);
    return up ? order : -order;
  });
  for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  head.closest("table").tBodies[0].append(...rows);
}

// A link to a run opens it
function open() {
  const run = document.getElementById(location.hash.slice(1));
  if (run instanceof HTMLDetailsElement) {
    run.open = true;
    run.scrollIntoView();
  }
}

for (const button of document.querySelectorAll(".sortable th button")) button.addEventListener("click", () => sort(button));
form.addEventListener("change", show);
document.getElementById("all").addEventListener("click", () => {
  form.reset();
  show();
});
form.addEventListener("submit", (event) => event.preventDefault());
chosen.addEventListener("change", dive);
window.addEventListener("hashchange", open);
show();
open();
