// Small plots: connections a second as a line, retries as bars below it.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TICKS] = [120, 26, 120];

function made(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function plot() {
  const svg = made("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.classList.add("plot");
  svg.append(made("path", { class: "area" }), made("path", { class: "line" }), made("path", { class: "bars" }));
  return svg;
}

export function drawPlot(svg, past) {
  const most = Math.max(5, ...past.map((rate) => rate.opened));
  const from = TICKS - past.length;
  const points = past.map(({ opened }, index) => {
    const x = ((from + index) / (TICKS - 1)) * WIDTH;
    return `${x.toFixed(1)} ${(HEIGHT - 1 - (opened / most) * (HEIGHT - 3)).toFixed(1)}`;
  });
  const [area, line, bars] = svg.children;
  const first = ((from / (TICKS - 1)) * WIDTH).toFixed(1);
  line.setAttribute("d", points.length ? `M${points.join("L")}` : "");
  area.setAttribute("d", points.length ? `M${first} ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z` : "");
  bars.setAttribute("d", past.map(({ retried }, index) => {
    if (!retried) return "";
    const x = (((from + index) / (TICKS - 1)) * WIDTH).toFixed(1);
    return `M${x} ${HEIGHT}v-${Math.max(4, Math.min(HEIGHT, (retried / most) * HEIGHT)).toFixed(1)}`;
  }).join(""));
}
