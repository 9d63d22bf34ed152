// Axes with a plot between them; paths are drawn in a square of 1000 by 1000 that takes the plot's size.
const SIZE = 1000;

function ticks(from, to, count) {
  const step = niceStep(Math.max(to - from, 1e-9), count);
  const found = [];
  for (let at = Math.ceil(from / step - 1e-6) * step; at <= to + step * 1e-6; at += step) found.push(at);
  return { step, found };
}

const plain = (value, step) => fixed(value, Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-6))));

// From nought, unless all that is to be seen would be in a small part of the axis.
function around(low, high, padding = 0.08) {
  if (!(high > low)) return high > 0 ? [0, high * 1.1] : [low, low + 1];
  if (low >= 0 && low < 0.6 * high) return [0, high * (1 + padding / 2)];
  return [low - padding * (high - low), high + padding * (high - low)];
}

function axes({ x: [x0, x1], y: [y0, y1], kind, rows = 4, said, xUnit = "", yUnit = "" }) {
  const X = (value) => (SIZE * (value - x0)) / (x1 - x0);
  const Y = (value) => SIZE * (1 - (value - y0) / (y1 - y0));
  const svg = draw("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const yLabels = el("div", { class: "y" }), xLabels = el("div", { class: "x" });
  const vertical = ticks(y0, y1, rows);
  vertical.found.forEach((at, index) => {
    svg.append(draw("line", { class: "rule", x1: 0, x2: SIZE, y1: Y(at), y2: Y(at) }));
    const unit = index === vertical.found.length - 1 ? yUnit : "";
    yLabels.append(styled(el("span", {}, `${plain(at, vertical.step)}${unit}`), { top: percent(Y(at) / SIZE) }));
  });
  if (xUnit !== null) labelAxis(xLabels, x0, x1, xUnit);
  const plot = el("div", { class: "plot", role: "img", "aria-label": said }, svg);
  return { X, Y, svg, plot, element: el("div", { class: `chart ${kind}` }, yLabels, plot, xUnit === null ? null : xLabels) };
}

function labelAxis(element, from, to, unit) {
  const { step, found } = ticks(from, to, 6);
  found.forEach((at, index) => {
    const text = `${plain(at, step)}${index === found.length - 1 ? unit : ""}`;
    const part = (at - from) / (to - from);
    element.append(styled(el("span", { class: part > 0.94 ? "last" : part < 0.03 ? "start" : null }, text), { left: percent(part) }));
  });
}
