"use strict";
// The page's own script: filters, legends, charts, sorting and the download. Text from records is
// only ever set as textContent, as an attribute, or as data of a chart.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const names = data.arms.map((arm) => arm.name);
  const hidden = new Set();
  const form = document.getElementById("filters");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const made = (tag, fields = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(...children);
    return element;
  };

  // --- what is chosen -----------------------------------------------------------------------
  const chosen = () =>
    Object.fromEntries(all("select", form).map((select) => [select.name, select.value]));

  const fits = (keys, wanted, others = []) =>
    [keys.arm, ...others].every((arm) => !hidden.has(arm)) &&
    Object.entries(wanted).every(
      ([key, value]) => !value || keys[key] === undefined || keys[key] === value);

  // --- the legend ---------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const MARKS = {
    circle: "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    square: "M-.9,-.9H.9V.9H-.9Z",
    diamond: "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "triangle-up": "M0,-1L1,.9L-1,.9Z",
    "triangle-down": "M0,1L1,-.9L-1,-.9Z",
    "triangle-left": "M-1,0L.9,-1L.9,1Z",
    "triangle-right": "M1,0L-.9,-1L-.9,1Z",
    cross: "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
  };
  const drawn = (tag, attributes) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const swatch = (arm, index) => {
    const color = `var(--arm-${index})`;
    const svg = drawn("svg", { width: 30, height: 12, viewBox: "-15 -6 30 12", "aria-hidden": "true" });
    svg.append(
      drawn("path", { d: "M-15,0H15", stroke: color, "stroke-width": 2, "stroke-dasharray": arm.dash.join(" ") }),
      drawn("path", { d: MARKS[arm.shape] || arm.shape, fill: color, transform: "scale(4.5)" }));
    return svg;
  };
  const legend = (arms) =>
    arms.map((name) => {
      const index = names.indexOf(name);
      const button = made("button", { type: "button", className: "arm" }, swatch(data.arms[index], index), name);
      button.dataset.arm = name;
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      button.addEventListener("click", () => {
        hidden.has(name) ? hidden.delete(name) : hidden.add(name);
        refresh();
      });
      return button;
    });

  // --- charts -------------------------------------------------------------------------------
  const unique = (values) => [...new Set(values)];
  const scales = () => ({
    color: { domain: names, range: names.map((_, i) => `var(--arm-${i})`) },
    shape: { domain: names, range: data.arms.map((arm) => arm.shape) },
    dash: { domain: names, range: data.arms.map((arm) => arm.dash) },
  });
  const looks = {
    background: null,
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: "var(--soft)", titleColor: "var(--ink)", gridColor: "var(--line)", domainColor: "var(--soft)",
      tickColor: "var(--soft)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, titlePadding: 8,
    },
  };

  const several = () => data.sides.length > 1;
  const told = (point, chart) =>
    [
      [point.arm, point.variant, point.mark, several() ? point.results : ""].filter(Boolean).join(", "),
      point.y === null ? `${point.status}: ${point.reason}` : `${point.text}`,
      chart.kind === "rows" ? (point.at === point.arm ? "" : point.at) : `${chart.xLabel}: ${point.name || point.at}`,
      point.y === null ? "" : `${point.n} ${chart.counted}; ${point.status}${point.reason ? ": " + point.reason : ""}`,
    ].filter(Boolean).join("\n");
  const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });

  /** Of points, curves or places of a chart: those of the choice. */
  const visible = (chart, parts) => {
    const wanted = chosen();
    for (const [key, value] of Object.entries(chart.narrowed)) wanted[key] ||= value;
    const { results, ...rest } = wanted;
    const first = chart.line && !wanted[chart.line];
    return parts.filter((p) => fits(p.keys, rest, p.arms) && (!results || p.results === results) && !(first && p.first === false));
  };

  /** The points and curves that are shown now, with what a mark of Vega needs beside. */
  const shown = (chart) => {
    const points = visible(chart, chart.points);
    const curves = visible(chart, chart.curves);
    const many = unique(points.concat(curves).map((p) => p.results)).length > 1;
    const parts = (p) => p.variant.split(", ");
    /** What tells one of `lines` from the others of its arm: in words, and as a shade. */
    const looks = (lines) => {
      const name = (p) => p.variant + "\u0000" + p.results;
      const variants = unique(lines.map(name));
      const shared = parts(lines[0] || { variant: "" }).filter((part) => lines.every((p) => parts(p).includes(part)));
      const short = (p) => parts(p).filter((part) => !shared.includes(part)).join(", ").replaceAll("_", " ");
      return (p) => ({
        arm: p.arm,
        series: [p.arm, p.variant, p.results].join("\u0000"),
        lane: [short(p), many ? p.results : ""].filter(Boolean).join(", "),
        shade: 1 - 0.55 * (1 - (variants.indexOf(name(p)) + 1) / variants.length),
        end: [variants.length > 1 ? short(p) : "", many ? p.results : ""].filter(Boolean).join(", "),
      });
    };
    const [look, lookOfCurve] = [looks(points), looks(curves)];
    return {
      points: points.map((p) => ({
        ...p,
        ...look(p),
        tip: told(p, chart),
        label: `${p.arm} ${p.variant} ${chart.xLabel} ${p.name || p.at}: ${p.y === null ? p.status : p.text}`,
      })),
      curves: curves.flatMap((c) => c.x.map((x, i) => ({
        ...lookOfCurve(c), x, y: c.y[i], low: c.low[i], high: c.high[i], inside: c.inside[i],
        tip: [
          [c.arm, c.variant, c.inside[i] ? "fit" : "fit, extrapolated", several() ? c.results : ""].filter(Boolean).join(", "),
          digits(c.y[i]) + (c.low[i] === null ? "" : ` [${digits(c.low[i])}, ${digits(c.high[i])}]`),
          `${chart.xLabel}: ${digits(x)}`,
        ].join("\n"),
      }))).filter((p) => p.y !== null),
      places: visible(chart, chart.places),
    };
  };

  const HEIGHT = 270;
  const CHOOSE = " Choose others above."; // not on paper
  const AXIS = 45; // what the x axis takes of it
  const LINE = 13;
  /** The ends of an axis: all values, and their intervals as far as those are not much longer. */
  const domainOf = (points, fromZero, log, guides = []) => {
    const to = log ? Math.log : (v) => v;
    const back = log ? Math.exp : (v) => v;
    const middles = points.map((p) => p.y).concat(guides).map(to);
    if (!middles.length) return log ? [1, 10] : [0, 1];
    const [least, most] = [Math.min(...middles), Math.max(...middles)];
    const reach = Math.max((most - least) / 2, log ? Math.log(1.3) : Math.abs(back(most)) / 20);
    const ends = points.flatMap((p) => [p.low, p.high]).filter((v) => v !== null && !(log && v <= 0)).map(to)
      .map((v) => Math.min(Math.max(v, least - reach), most + reach));
    let [low, high] = [Math.min(least, ...ends), Math.max(most, ...ends)];
    const room = 0.05 * (high - low) || (log ? 0.2 : Math.abs(high) / 10 || 1);
    [low, high] = [low - room, high + room];
    if (fromZero && !log) low = Math.min(0, least);
    return [back(low), back(high)];
  };
  /** Ticks of a logarithmic axis: 1, 2 and 5 of each decade, or more where it spans less than one. */
  const logTicks = ([low, high]) => {
    const steps = high < 8 * low ? [1, 1.5, 2, 3, 4, 5, 6, 8] : [1, 2, 5];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      found.push(...steps.map((step) => step * 10 ** power).filter((v) => v >= low && v <= high));
    }
    return found;
  };

  /** The last point of each series that needs a name, with the height of the name: names that would
      lie on one another are moved apart. */
  const named = (points, domain, log) => {
    const last = new Map();
    for (const p of points) if (!last.has(p.series) || last.get(p.series).x < p.x) last.set(p.series, p);
    const ends = [...last.values()].filter((p) => p.end).sort((a, b) => a.y - b.y);
    if (!ends.length) return [];
    const to = log ? Math.log : (v) => v;
    const back = log ? Math.exp : (v) => v;
    const [low, high] = domain.map(to);
    const scale = (HEIGHT - AXIS) / (high - low);
    const heights = ends.map((p) => (to(p.y) - low) * scale);
    for (let i = 1; i < heights.length; i++) heights[i] = Math.max(heights[i], heights[i - 1] + LINE);
    const over = heights.at(-1) - (HEIGHT - AXIS);
    for (let i = heights.length - 1, most = heights.at(-1) - Math.max(over, 0); i >= 0; i--) {
      heights[i] = Math.min(heights[i], most);
      most = heights[i] - LINE;
    }
    return ends.map((p, i) => ({ ...p, y: back(heights[i] / scale + low) }));
  };

  const hasData = (layer) => layer.data.values.length > 0; // the library warns of a layer without
  const MOST_PLACES = 4; // lines that can be told apart; more stand in the tables alone
  const SHORT = "replace(format(datum.value, '.3~s'), 'G', 'B')"; // 400k, 3M, 1.3B
  const encodings = () => {
    const { color, shape, dash } = scales();
    const field = (scale) => ({ field: "arm", type: "nominal", scale, legend: null });
    return {
      color: field(color), shape: field(shape), dash: field(dash),
      tip: { tooltip: { field: "tip" }, description: { field: "label" } },
      pale: { field: "shade", type: "quantitative", scale: null },
    };
  };
  const baseOf = (chart, count) => ({
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", config: looks,
    autosize: { type: "fit", contains: "padding" },
    description: `${chart.title}: ${chart.yLabel} by ${chart.xLabel || "arm"}; ${count} points. The tables below have the same numbers.`,
  });

  /** Arrows where an interval goes on beyond the chart. */
  const beyondLayers = (points, [low, high], at, [below, above]) => {
    const arrow = (values, shape, end) => ({ data: { values: values.map((p) => ({ ...p, edge: end })) },
      mark: { type: "point", shape, filled: true, size: 45, aria: false }, encoding: at("edge") });
    return [
      arrow(points.filter((p) => p.low !== null && p.low < low), below, low),
      arrow(points.filter((p) => p.high !== null && p.high > high), above, high),
    ];
  };
  /** A row for each arm, cost or task; arms or settings that share a row have lanes in it. */
  const byLane = (points) => [...points].sort((a, b) => a.lane.localeCompare(b.lane, "en", { numeric: true }));
  const rowsSpec = (chart, { points }) => {
    const { color, shape, tip, pale } = encodings();
    const ofArms = points.every((p) => p.x === p.arm);
    const ordered = ofArms ? [...points].sort((a, b) => (a.y ?? 1e99) - (b.y ?? 1e99)) : points;
    const rows = unique(ordered.map((p) => p.x));
    const seriesOf = new Map(rows.map((row) => [row, unique(byLane(points.filter((p) => p.x === row)).map((p) => p.series))]));
    const most = Math.max(...[...seriesOf.values()].map((all) => all.length));
    // In half lanes, so that a row of fewer is centred on its name, too.
    const laned = (all) => all.map((p) => {
      const own = seriesOf.get(p.x);
      return { ...p, place: most - own.length + 2 * own.indexOf(p.series) };
    });
    const y = { field: "x", type: "nominal", sort: rows, title: null, axis: { grid: true, domain: false, labelLimit: 160 } };
    const yOffset = { field: "place", type: "nominal", scale: { domain: [...Array(2 * most - 1).keys()] } };
    const place = most > 1 ? { y, yOffset } : { y };
    const placed = laned(points);
    const measured = placed.filter((p) => p.y !== null);
    const failed = placed.filter((p) => p.y === null);
    const guides = chart.guides.filter((v) => !(chart.logX && v <= 0));
    const domain = domainOf(measured, false, chart.logX, guides);
    const axis = { format: ",.3~r", ...(chart.logX ? { values: logTicks(domain) } : {}) };
    const scale = { type: chart.logX ? "log" : "linear", domain, nice: false, clamp: true, ...(chart.logX ? {} : { zero: false }) };
    const x = { field: "y", type: "quantitative", title: chart.yLabel, scale, axis };
    const layer = [
      { data: { values: guides.map((v) => ({ v })) }, mark: { type: "rule", color: "var(--soft)", aria: false }, encoding: { x: { ...x, field: "v" } } },
      { data: { values: measured.filter((p) => p.low !== null && p.high !== null) }, mark: { type: "rule", strokeWidth: 2, aria: false },
        encoding: { ...place, x: { ...x, field: "low" }, x2: { field: "high" }, color, opacity: pale } },
      ...beyondLayers(measured, domain, (at) => ({ ...place, x: { ...x, field: at }, color }), ["triangle-left", "triangle-right"]),
      { data: { values: measured.filter((p) => !p.hollow) }, mark: { type: "point", filled: true, size: 70 },
        encoding: { ...place, x, color, shape, opacity: pale, ...tip } },
      { data: { values: measured.filter((p) => p.hollow) }, mark: { type: "point", filled: false, size: 70, fill: "var(--ground)", strokeWidth: 1.8 },
        encoding: { ...place, x, color, shape, ...tip } },
      { data: { values: failed }, mark: { type: "point", filled: false, size: 80 }, encoding: { ...place, x: { value: 8 }, color, ...tip } },
    ];
    return { ...baseOf(chart, measured.length), height: 60 + rows.length * (most > 1 ? 10 + 13 * most : 30), layer: layer.filter(hasData) };
  };

  const rule = (values, encoding, more = {}) => ({ data: { values }, mark: { type: "rule", aria: false, clip: true, ...more }, encoding });

  /** The band, the line and the dashes of every fitted curve. */
  const curveLayers = (curves, x, y, { color, pale }) => {
    const detail = { field: "series" };
    const line = { x, y, color, detail, opacity: pale };
    const known = curves.filter((p) => p.low !== null && p.high !== null);
    return [
      { data: { values: known }, mark: { type: "area", opacity: 0.12, aria: false, clip: true },
        encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color, detail } },
      { data: { values: curves }, mark: { type: "line", strokeWidth: 1.3, strokeDash: [5, 4], aria: false, clip: true }, encoding: line },
      { data: { values: curves.filter((p) => p.inside) }, mark: { type: "line", strokeWidth: 1.6, aria: false, clip: true }, encoding: line },
      { data: { values: curves }, mark: { type: "point", filled: true, size: 50, opacity: 0, aria: false },
        encoding: { x, y, tooltip: { field: "tip" } } },
    ];
  };
  const placeLayers = (places, x) => {
    const told = places.map((p) => ({ ...p, tip: p.text }));
    const words = { tooltip: { field: "tip" } };
    return [
      { data: { values: told.filter((p) => p.low !== null && p.high !== null) }, mark: { type: "rect", color: "var(--soft)", opacity: 0.16 / Math.max(1, told.length), aria: false, clip: true },
        encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, ...words } },
      rule(told, { x, ...words }, { color: "var(--soft)", strokeDash: [2, 3], strokeWidth: 1.5 }),
    ];
  };
  /** Bars with caps, or a band, for the intervals of points. */
  const intervalLayers = (chart, measured, x, y, log, { color, pale }) => {
    const bars = measured.filter((p) => p.low !== null && p.high !== null && !(log.y && p.low <= 0));
    if (chart.kind === "band") {
      return [{ data: { values: bars }, mark: { type: "area", opacity: 0.2, aria: false, clip: true },
        encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color, detail: { field: "series" } } }];
    }
    const cap = (end) => ({ data: { values: bars }, mark: { type: "tick", orient: "horizontal", size: 7, thickness: 1.5, aria: false, clip: true },
      encoding: { x, y: { ...y, field: end }, color, opacity: pale } });
    const across = measured.filter((p) => p.xLow !== undefined && p.xLow !== null && p.xHigh !== null && !(log.x && p.xLow <= 0));
    return [
      rule(bars, { x, y: { ...y, field: "low" }, y2: { field: "high" }, color, opacity: pale }, { strokeWidth: 1.5 }),
      cap("low"), cap("high"),
      ...beyondLayers(bars, y.scale.domain, (at) => ({ x, y: { ...y, field: at }, color }), ["triangle-down", "triangle-up"]),
      rule(across, { y, x: { ...x, field: "xLow" }, x2: { field: "xHigh" }, color, opacity: pale }, { strokeWidth: 1.5 }),
    ];
  };
  const xOf = (chart, points, curves, log) => {
    const placed = points.concat(curves).map((p) => p.x).filter((v) => v !== null && !(log.x && v <= 0));
    const at = unique(placed).sort((a, b) => a - b);
    const own = chart.kind === "line" && !curves.length && at.length <= 9 && !points.some((p) => p.mark || p.xLow !== undefined);
    const sizes = Object.fromEntries(points.filter((p) => p.name).map((p) => [String(p.x), p.name]));
    const named = Object.keys(sizes).length > 0;
    const axis = { title: chart.xLabel, labelOverlap: "greedy", labelFlush: false, grid: false, format: ",.6~r" };
    const [first, last] = [at[0] ?? 1, at.at(-1) ?? 2];
    let span = first < last ? [first, last] : log.x ? [first / 2, first * 2] : [first - 1, first + 1];
    if (points.some((p) => p.xLow !== undefined)) {
      span = domainOf(points.map((p) => ({ y: p.x, low: p.xLow ?? null, high: p.xHigh ?? null })), false, log.x, curves.map((p) => p.x));
    }
    if (own || named) axis.values = named ? unique(points.filter((p) => p.name).map((p) => p.x)) : at;
    else if (log.x) axis.values = logTicks(span);
    if (named) axis.labelExpr = `${JSON.stringify(sizes)}['' + datum.value]`;
    else if (span[1] >= 1e5) axis.labelExpr = SHORT;
    const scale = { type: log.x ? "log" : "linear", domain: span, nice: false, padding: 6, ...(log.x ? {} : { zero: false }) };
    return { field: "x", type: "quantitative", axis, scale };
  };
  const yOf = (chart, values, log) => {
    const guides = chart.guides.filter((v) => !(log.y && v <= 0));
    const domain = domainOf(values, chart.fromZero, log.y, guides);
    const axis = { title: chart.yLabel, format: ",.3~r", tickCount: 6, labelOverlap: true, labelFlush: false };
    if (log.y) axis.values = logTicks(domain);
    if (domain[1] >= 1e6) axis.labelExpr = SHORT;
    const scale = { type: log.y ? "log" : "linear", domain, nice: false, ...(log.y ? {} : { zero: false }) };
    return { field: "y", type: "quantitative", scale, axis };
  };

  const spec = (chart, { points, curves, places }, log) => {
    if (chart.kind === "rows") return rowsSpec(chart, { points });
    const marks = encodings();
    const { color, shape, dash, tip, pale } = marks;
    const placed = points.filter((p) => p.x !== null && !(log.x && p.x <= 0));
    const measured = placed.filter((p) => p.y !== null && !(log.y && p.y <= 0));
    const failed = placed.filter((p) => p.y === null);
    const fitted = curves.filter((p) => !(log.x && p.x <= 0) && !(log.y && p.y <= 0));
    const x = xOf(chart, placed, fitted, log);
    const y = yOf(chart, measured.concat(fitted), log);
    const band = chart.kind === "band";
    const domain = y.scale.domain;
    const ends = named(fitted.some((p) => p.end) ? fitted : measured, domain, log.y);
    const guides = chart.guides.filter((v) => v >= domain[0] && v <= domain[1]).map((y) => ({ y }));
    const layer = [
      ...placeLayers(places.length > MOST_PLACES ? [] : places, x),
      rule(guides, { y }, { color: "var(--soft)", strokeDash: [2, 3] }),
      ...curveLayers(fitted, x, y, marks),
      ...intervalLayers(chart, measured, x, y, log, marks),
    ];
    if (chart.kind !== "points" && !fitted.length) {
      const order = measured.some((p) => p.order !== undefined) ? { order: { field: "order", type: "quantitative" } } : {};
      layer.push({ data: { values: measured }, mark: { type: "line", strokeWidth: band ? 1.5 : 2, aria: false },
        encoding: { x, y, color, strokeDash: dash, detail: { field: "series" }, opacity: pale, ...order } });
    }
    layer.push(
      { data: { values: measured.filter((p) => !p.hollow) }, mark: { type: "point", filled: true, size: 60, aria: !band },
        encoding: { x, y, color, shape, opacity: band ? { value: 0 } : pale, ...tip } },
      { data: { values: measured.filter((p) => p.hollow) }, mark: { type: "point", filled: false, fill: "var(--ground)", size: 60, strokeWidth: 1.6 },
        encoding: { x, y, color, shape, ...tip } },
      { data: { values: measured.filter((p) => p.mark) }, mark: { type: "text", align: "left", dx: 6, dy: -7, fontSize: 10, aria: false },
        encoding: { x, y, color, text: { field: "mark" } } },
      { data: { values: ends }, mark: { type: "text", align: "left", dx: 8, fontSize: 11, aria: false },
        encoding: { x, y, color, text: { field: "end" } } },
      { data: { values: failed }, mark: { type: "point", filled: false, size: 80, strokeWidth: 1.8 },
        encoding: { x, y: { value: 8 }, color, shape, ...tip } },
      { data: { values: failed }, mark: { type: "text", angle: 90, align: "left", dx: 9, fontSize: 10, aria: false, fill: "var(--soft)" },
        encoding: { x, y: { value: 8 }, text: { field: "status" } } });
    return { ...baseOf(chart, measured.length), height: HEIGHT, padding: { left: 4, top: 6, bottom: 4, right: ends.length ? 12 : 6 }, layer: layer.filter(hasData) };
  };

  const tip = made("div", { id: "tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  const pointAt = (_, event, __, value) => {
    const words = value && value.tip !== undefined ? value.tip : value;
    tip.hidden = words === null || words === undefined || words === "";
    if (tip.hidden) return;
    tip.textContent = String(words);
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.setProperty("left", `${Math.max(4, Math.min(event.clientX + 12, room))}px`);
    tip.style.setProperty("top", `${Math.max(4, event.clientY - tip.offsetHeight - 12)}px`);
  };

  /** A sentence of a caption; what to choose stands on the screen alone. */
  const paragraph = (text) => {
    const [said, rest] = text.endsWith(CHOOSE) ? [text.slice(0, -CHOOSE.length), CHOOSE] : [text, ""];
    return made("p", {}, said, ...(rest ? [made("span", { className: "screen", textContent: rest })] : []));
  };

  class ChartView {
    constructor(chart) {
      this.chart = chart;
      this.log = { x: chart.logX, y: chart.logY };
      this.arms = names.filter((name) => chart.points.concat(chart.curves).some((p) => p.arm === name));
      this.legend = made("div", { className: "tools legend" });
      this.legend.setAttribute("role", "group");
      this.legend.setAttribute("aria-label", `Arms of ${chart.title}: press to hide or show`);
      this.plot = made("div", { className: "plot" });
      this.caption = made("figcaption");
      const scales = made("div", { className: "tools" }, ...(chart.kind === "rows" ? [] : ["x", "y"]).map((axis) => this.toggle(axis)));
      const title = made("h3", { textContent: chart.title });
      this.figure = made("figure", {}, title, this.legend, this.plot, scales, this.caption);
      this.figure.dataset.figure = chart.name;
      this.view = null;
      this.turn = 0;
    }
    toggle(axis) {
      const button = made("button", { type: "button", className: "quiet" });
      const say = () => {
        button.textContent = `${axis}: ${this.log[axis] ? "logarithmic" : "linear"}`;
        button.setAttribute("aria-label", `${this.chart.title}, ${axis} axis: ${this.log[axis] ? "logarithmic" : "linear"}`);
      };
      button.addEventListener("click", () => { this.log[axis] = !this.log[axis]; say(); this.draw(); });
      say();
      return button;
    }
    /** The caption: what is shown of several, what lines and open marks are, and what follows. */
    words({ points, curves, places }) {
      const narrowed = Object.entries(this.chart.narrowed).filter(([key]) => !chosen()[key]);
      const lost = points.filter((p) => p.y === null).length;
      const failed = points.filter((p) => p.y === null && p.status !== "ok").length;
      const lanes = this.chart.kind === "rows" ? unique(byLane(points).map((p) => p.lane)).filter(Boolean) : [];
      const first = this.chart.line && !chosen()[this.chart.line];
      return [
        narrowed.length ? `Shown: ${narrowed.map(([k, v]) => `${k.replace("_", " ")} ${v}`).join(", ")}.${CHOOSE}` : "",
        first ? `${this.chart.remark}${CHOOSE}` : "",
        curves.length ? "Curves are fits, dashed where extrapolated." : "",
        lanes.length > 1 ? `In a row, from the top: ${lanes.join("; ")}.` : "",
        points.some((p) => p.hollow) ? (this.chart.kind === "rows" ? "Open marks: with solved examples." : "Open marks are extrapolated: nobody measured the like.") : "",
        lost ? `Open markers: ${lost} without a value${failed < lost ? "" : lost > 1 ? ", of cells that failed" : ", of a cell that failed"}; each says why.` : "",
        ...(places.length > MOST_PLACES ? [`${places.length} crossovers: see the tables.`] : places.map((p) => `Dotted: ${p.text}.`)),
        ...this.chart.notes,
      ].filter(Boolean);
    }
    async draw() {
      const turn = ++this.turn;
      const parts = shown(this.chart);
      this.legend.replaceChildren(...legend(this.arms));
      this.caption.replaceChildren(...this.words(parts).map(paragraph));
      this.figure.dataset.points = parts.points.length;
      if (!parts.points.length && !parts.curves.length) {
        if (this.view) this.view.finalize();
        this.view = null;
        this.plot.replaceChildren(made("p", { className: "note", textContent: "No points for this choice." }));
        return;
      }
      const result = await vegaEmbed(this.plot, spec(this.chart, parts, this.log), {
        renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: pointAt });
      if (turn !== this.turn) { result.finalize(); return; }
      if (this.view) this.view.finalize();
      this.view = result.view;
    }
  }
  const views = data.charts.map((chart) => new ChartView(chart));
  document.getElementById("charts").append(...views.map((view) => view.figure));
  if (!views.length) document.getElementById("charts").append(made("p", { textContent: "These records hold nothing that is drawn as a curve." }));

  // What is folded away on the screen is printed.
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = all("details:not([open])");
    for (const one of unfolded) one.open = true;
  });
  window.addEventListener("afterprint", () => { for (const one of unfolded) one.open = false; });

  // --- tables -------------------------------------------------------------------------------
  const rows = all("tr[data-keys]").map((row) => {
    const { others, ...keys } = JSON.parse(row.dataset.keys);
    return { row, keys, others: others || [] };
  });
  const filterTables = () => {
    const { results, ...wanted } = chosen();
    for (const { row, keys, others } of rows) row.hidden = !fits(keys, wanted, others);
    for (const part of all("[data-results]")) part.hidden = Boolean(results) && part.dataset.results !== results;
    for (const table of all(".table")) {
      const lines = all("tbody tr", table);
      const left = lines.filter((row) => !row.hidden).length;
      table.querySelector(".count").textContent = left < lines.length ? `${left} of ${lines.length} rows` : lines.length > 12 ? `${left} rows` : "";
    }
    const left = rows.filter(({ row }) => !row.hidden).length;
    form.querySelector(".matches").textContent = `${left} of ${rows.length} rows`;
  };
  const SUFFIX = { k: 1e3, M: 1e6, B: 1e9 };
  const number = (text) => {
    const found = /^\s*([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)([kMB])?\b/i.exec(text);
    return found ? Number(found[1].replaceAll(",", "")) * (SUFFIX[found[2]] || 1) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) && Number.isNaN(y)) return a.localeCompare(b, "en", { numeric: true });
    return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : x - y;
  };
  for (const head of all("th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = head.closest("table").tBodies[0];
      const text = (row) => row.cells[head.cellIndex].textContent;
      body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * compare(text(a), text(b))));
    });
  }

  // --- download, theme, start ---------------------------------------------------------------
  for (const button of all("button.download")) {
    button.addEventListener("click", () => {
      const text = atob(document.getElementById(button.dataset.from).textContent.trim());
      const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
      const link = made("a", { href: URL.createObjectURL(new Blob([bytes])), download: button.dataset.name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
  const theme = document.getElementById("theme");
  const setTheme = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    theme.textContent = dark ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Use the ${dark ? "light" : "dark"} theme`);
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches);
  system.addEventListener("change", (event) => setTheme(event.matches));
  theme.hidden = false;
  theme.addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

  function refresh() {
    const focused = document.activeElement;
    const within = focused && focused.closest("figure, .arms");
    form.querySelector(".arms").replaceChildren(...legend(names));
    filterTables();
    const done = Promise.all(views.map((view) => view.draw()));
    if (focused && focused.dataset.arm && within) {
      const again = all("button.arm", within).find((b) => b.dataset.arm === focused.dataset.arm);
      if (again) again.focus();
    }
    document.documentElement.dataset.ready = "false";
    return done.then(() => { document.documentElement.dataset.ready = "true"; });
  }
  form.hidden = false;
  form.addEventListener("change", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => { hidden.clear(); setTimeout(refresh); });
  refresh();
})();
